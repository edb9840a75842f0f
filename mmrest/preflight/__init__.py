"""Pre-flight checks: rehearse a run with the parts that it would build.

The rehearsal builds the datasets and prepares samples with their own pipelines. Evaluators get the
ground truth as predictions, and must give it the best score. A dry run also trains a step and
evaluates an image with the Runner, hooks and schedulers of the run. Separate checks cover weights,
schedule and disk. Faults raise UsageError or CheckpointError, in one line with cause and fix;
likely mistakes are warnings. Evaluators write to a temporary folder.
"""

import re
from contextlib import nullcontext
from itertools import chain
from tempfile import TemporaryDirectory
from typing import Dict, List, Tuple

from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.runner import set_random_seed
from rich.console import Console

from ..checkpoint import check_writable
from ..engine.building import check_model
from ..engine.config import (
    RUN_KEYS,
    data_roots,
    default_scope,
    has_paths_below,
    hooks,
    make_resumable,
    type_name,
)
from ..engine.data_loading import kept_random_states
from ..engine.loops import check_compile
from ..engine.resuming import check_same_optimizer
from ..errors import UsageError, explained, near, some
from .classes import check_classes
from .data import FEW_IMAGES, Part, build_loader, check_images
from .evaluation import check_evaluator, check_monitored
from .findings import Fact, Report, quiet
from .resources import check_disk, check_shared_memory, check_weights
from .schedule import check_optimizer, check_schedule
from .step import check_run

__all__ = ['Fact', 'Report', 'rehearse']


def _check_keys(cfg: Config, phases: Tuple[str, ...], report: Report) -> None:
    """Raise UsageError if a config lacks a part or has a bad seed; warn about misspelt keys."""
    needed = ['model', 'test_dataloader']
    if 'train' in phases:
        needed = ['model', 'train_dataloader', 'train_cfg', 'optim_wrapper']
    for key in (*needed, 'val_dataloader'):
        if not isinstance(cfg.get(key), dict) and (key in needed or cfg.get(key) is not None):
            raise UsageError(f'{key} must be a dict, got {cfg.get(key)!r} in {cfg.filename}')
    for phase in ('val', 'test'):
        keys = [f'{phase}_{part}' for part in ('dataloader', 'cfg', 'evaluator')]
        absent = [key for key in keys if cfg.get(key) is None]
        if len(absent) in (1, 2):
            raise UsageError(f'{some(keys)} belong together; set {some(absent)} too')
    root = cfg.get('data_root')
    texts = re.findall(r"""^data_root *= *['"](.+?)/*['"]""", cfg.text or '', re.M)
    inherited = data_roots(cfg) & set(texts)
    if root and isinstance(root, str) and inherited and not has_paths_below(cfg, root):
        report.warnings.append(
            f'data_root={root!r} has no effect: the datasets are those of a base config, and keep '
            f'its {some(inherited)}; pass --data-root DIR, or set data_root of each dataset'
        )
    averages = any(type_name(hook) == 'EMAHook' for _, hook in hooks(cfg))
    if 'train' in phases and averages and cfg.get('runner_type') == 'FlexibleRunner':
        report.warnings.append('a run with FlexibleRunner and EMAHook cannot be resumed')
    randomness = dict(cfg.get('randomness') or {}, deterministic=False)
    with explained(f'randomness={cfg.get("randomness")} cannot be used', 'set an integer seed'):
        set_random_seed(**randomness)
    report.warnings += [
        f'{key} is not a key of the Runner, which ignores it; did you mean {similar}?'
        for key in sorted(cfg.keys() - RUN_KEYS)
        for similar in near(key, RUN_KEYS, 0.9)
    ]


def rehearse(cfg: Config, phases: Tuple[str, ...], thorough: bool = False) -> Report:
    """Rehearse a run; return the findings, and the datasets that it built.

    Args:
        cfg: config of the run; loops and checkpoint hook are replaced with mmrest's.
        phases: phases of the run, of 'train', 'val' and 'test'.
        thorough: also train a step and predict an image.

    Raises:
        UsageError: see the modules of this package.
        CheckpointError: weights cannot be read or do not match.
    """
    report, loaders, evaluators = Report(), {}, {}
    parts: Dict[str, List[Part]] = {}
    progress = Console(stderr=True).status('checking the network')
    shown = progress if get_rank() == 0 else nullcontext()
    with shown, default_scope(cfg), kept_random_states(), quiet(), TemporaryDirectory() as folder:
        check_writable(cfg.work_dir)
        _check_keys(cfg, phases, report)
        check_compile(cfg)
        make_resumable(cfg)
        model = check_model(cfg, as_run=True)
        count = sum(parameter.numel() for parameter in model.parameters())
        report.add('parameters', f'{count:,} of {type(model).__name__}')
        resumed = check_weights(cfg, model, phases, report)
        if 'train' in phases:
            optimizer = check_optimizer(cfg, model, report)
            check_same_optimizer(str(cfg.get('load_from')), resumed, optimizer)
        for phase in [phase for phase in phases if cfg.get(f'{phase}_dataloader')]:
            progress.update(f'reading the dataset of {phase}_dataloader')
            loaders[phase], parts[phase] = build_loader(cfg, phase, report)
        all_parts = list(chain(*parts.values()))
        if thorough or sum(len(part.dataset) for part in all_parts) <= FEW_IMAGES:
            progress.update('looking for the files of all images')
            check_images(all_parts, report)
        check_classes(cfg, model, all_parts, report)
        for phase in [phase for phase in loaders if cfg.get(f'{phase}_evaluator')]:
            progress.update(f'evaluating the ground truth with {phase}_evaluator')
            evaluators[phase], names = check_evaluator(cfg, phase, parts[phase], folder, report)
            if names and phase == 'val' and 'train' in phases:
                check_monitored(cfg, names)
        if 'train' in phases:
            batches = len(loaders['train'])
            check_schedule(cfg, batches, optimizer, report)
            check_disk(cfg, model, batches, report)
            samples = chain(*(part.samples for part in parts['train']))
            packed = (sample.packed for sample in samples if sample.packed is not None)
            check_shared_memory(loaders['train'], next(packed, None), report)
            if thorough:
                progress.update('training a step and predicting an image')
                check_run(cfg, loaders, parts, evaluators.get('val'), resumed, folder, report)
    report.datasets = {phase: loader.dataset for phase, loader in loaders.items()}
    return report
