"""The rehearsal of a run, with the parts that the run itself would build.

Its data sets are built, samples of them prepared by their own pipelines, its evaluators fed with
the ground truth, which must get the best score, and, in a dry run, a step trained and an image
predicted. What that cannot show is looked at: files, names in the config, weights, schedule, disk
and memory. Every fault raises UsageError or CheckpointError, in one line that names the culprit
and what to do. None writes anything.
"""

from typing import Any, Dict, List, Tuple

from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from ..engine.building import check_model
from ..engine.randomness import kept_random_states
from .annotations import watched
from .classes import check_classes
from .data import SAMPLES, Part, build_loader, sample
from .evaluation import build_evaluator, check_evaluator
from .files import check_files, check_writable
from .names import check_names
from .report import Fact, Report, quiet
from .room import check_disk, check_memory, check_schedule
from .step import check_optimizer, check_step
from .weights import check_weights

__all__ = ['Fact', 'Report', 'Rehearsal', 'check_files', 'rehearse']


class Rehearsal:
    """What a rehearsal found, and the data sets that it built.

    Attributes:
        report: facts and warnings.
    """

    def __init__(self) -> None:
        self.report = Report()
        self._datasets: Dict[str, Any] = {}

    def keep(self, phase: str, dataset: Any) -> None:
        """Keep a data set for the run."""
        self._datasets[phase] = dataset

    def hand_over(self, runner: Runner) -> None:
        """Have a runner use the data sets instead of reading all annotations a second time."""
        for phase in list(self._datasets):
            name = f'_{phase}_dataloader'
            loader = getattr(runner, name)
            # mmengine copies the config of a loader deeply; a function is left as it is.
            taken = dict(type=lambda phase=phase: self._datasets.pop(phase))
            setattr(runner, name, dict(loader, dataset=taken))


def rehearse(cfg: Config, phases: Tuple[str, ...], thorough: bool = False) -> Rehearsal:
    """Rehearse a run.

    Args:
        cfg: config of the run.
        phases: which of 'train', 'val' and 'test' it goes through.
        thorough: train a step and predict an image too.

    Raises:
        UsageError: see the modules of this package.
        CheckpointError: weights cannot be read or do not fit.
    """
    done = Rehearsal()
    report, parts, loaders, evaluators = done.report, [], {}, {}
    scope = DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmengine')
    with scope, kept_random_states(), quiet():
        check_files(cfg, phases)
        nearest = check_writable(cfg.work_dir)
        model = check_model(cfg)
        check_names(cfg, phases)
        if 'train' in phases:
            check_optimizer(cfg, model, report)
        for phase in phases:
            if not cfg.get(f'{phase}_dataloader'):
                continue
            loader, of_phase = build_loader(cfg, phase, report)
            loaders[phase] = loader
            done.keep(phase, loader.dataset)
            for part in of_phase:
                sample(part, SAMPLES, report)
            parts += of_phase
        check_classes(cfg, parts, report)
        for phase in phases:
            if cfg.get(f'{phase}_evaluator') and phase in loaders:
                evaluators[phase] = _evaluator(cfg, phase, parts, report)
        count = sum(parameter.numel() for parameter in model.parameters())
        report.add('parameters', f'{count:,} of {type(model).__name__}')
        check_weights(cfg, model, phases, report)
        if 'train' in phases:
            plan = check_schedule(cfg, len(loaders['train']), report)
            check_disk(cfg, model, plan, nearest, report)
            check_memory(cfg, model, report)
            if thorough:
                check_step(cfg, loaders, parts, evaluators.get('val'), report)
    return done


def _evaluator(cfg: Config, phase: str, parts: List[Part], report: Report) -> Any:
    with watched():
        evaluator = build_evaluator(cfg, phase)
        of_phase = [part for part in parts if part.phase == phase]
        check_evaluator(cfg, phase, evaluator, of_phase, report)
    return evaluator
