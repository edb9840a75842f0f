"""Evaluation of a checkpoint, with scores of every class and image."""

import contextlib
import tempfile
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from ..engine.building import set_up
from ..engine.config import confined, is_classifier
from ..engine.devices import peak_memory_mb
from ..engine.display import scalars
from ..engine.weight_hooks import StrictWeightsHook
from ..errors import UsageError
from ..preflight import rehearse
from .scores import InstanceScores, LabelMapScores

Scores = Union[InstanceScores, LabelMapScores]


class Evaluation(NamedTuple):
    """Evaluation results of a checkpoint."""

    checkpoint: str  # name of the file
    phase: str  # 'val' or 'test'
    metrics: Dict[str, float]  # of the config's own evaluators
    scores: Scores
    dataset: BaseDataset
    speed: List[Tuple[str, str]]  # size of the network, time and memory, with their names


class ScoresHook(Hook):
    """Hook that collects the scores of a test; see :class:`.InstanceScores` for `score_thr`."""

    def __init__(self, score_thr: float) -> None:
        self._score_thr = score_thr
        self.scores: Optional[Scores] = None

    def after_test_iter(self, runner: Runner, *, outputs: Sequence[Any], **_: Any) -> None:
        if self.scores is None:
            self.scores = self._start(runner, outputs[0])
        for sample in outputs:
            self.scores.add(sample.cpu())

    def _start(self, runner: Runner, sample: Any) -> Scores:
        dataset, metrics = runner.test_dataloader.dataset, runner.test_evaluator.metrics
        classes = (getattr(dataset, 'metainfo', None) or {}).get('classes') or ()
        sample = sample if isinstance(sample, BaseDataElement) else {}
        if 'pred_instances' in sample:
            infos = map(dataset.get_data_info, range(len(dataset)))
            by_path = {info['img_path']: info.get('instances', []) for info in infos}
            return InstanceScores(classes, by_path, self._score_thr)
        if 'pred_sem_seg' in sample and 'gt_sem_seg' in sample:
            ignored = [m.ignore_index for m in metrics if hasattr(m, 'ignore_index')]
            return LabelMapScores(classes, ignored[0] if ignored else 255)
        raise UsageError(
            'the evaluated images have no instances or label maps to compare with; pass --no-eval'
        )


def evaluate(cfg: Config, checkpoint: str, device: torch.device, score_thr: float) -> Evaluation:
    """Evaluate a checkpoint on the val set of its config, or else on the test set.

    Logs, and files of metrics, go to a temporary folder.

    Raises:
        UsageError: it is the config of a classifier, or see :func:`mmrest.preflight.rehearse`.
        CheckpointError: the weights cannot be read or do not match.
    """
    if is_classifier(cfg):
        raise UsageError(
            f'{cfg.filename} is the config of a classifier, but reports evaluate only detectors '
            'and segmentors; pass --no-eval'
        )
    phase = 'val' if cfg.get('val_dataloader') else 'test'
    if not cfg.get(f'{phase}_dataloader'):
        raise UsageError('the config has no val_dataloader to evaluate on; pass --no-eval')
    hook = ScoresHook(score_thr)
    # A Runner builds its model on the current GPU, which another job may use.
    gpu = torch.cuda.device(device) if device.type == 'cuda' else contextlib.nullcontext()
    with tempfile.TemporaryDirectory() as folder, gpu:
        cfg = confined(cfg, folder)
        for key in ('runner_type', 'strategy'):  # for several processes
            cfg.pop(key, None)
        # As a test, because a validation would save the best checkpoint.
        cfg.test_dataloader = cfg[f'{phase}_dataloader']
        cfg.test_evaluator = cfg.get(f'{phase}_evaluator')
        fp16 = (cfg.get(f'{phase}_cfg') or {}).get('fp16', False)
        cfg.test_cfg = dict(type='TestLoop', fp16=fp16)
        cfg.load_from, cfg.resume, cfg.launcher = checkpoint, False, 'none'
        cfg.log_level, cfg.work_dir = 'WARNING', folder
        (cfg.get('default_hooks') or {}).pop('visualization', None)
        # If there is no evaluator, the rehearsal says so.
        datasets = {'test': rehearse(cfg, (phase,)).datasets[phase]}
        runner = set_up(cfg, ['test'], datasets)
        runner.register_hook(StrictWeightsHook())
        runner.register_hook(hook, priority='VERY_LOW')
        runner.model.to(device)
        metrics = scalars(runner.test())
        speed = _speed(runner, device)
    dataset = runner.test_loop.dataloader.dataset
    name = Path(checkpoint).name
    return Evaluation(name, phase, metrics, hook.scores, dataset, speed)


def _speed(runner: Runner, device: torch.device) -> List[Tuple[str, str]]:
    number = sum(parameter.numel() for parameter in runner.model.parameters())
    rows = [('parameters', f'{number / 1e6:.2f} million')]
    times = runner.message_hub.log_scalars  # of the timer, if the config has one
    on_gpu = device.type == 'cuda'
    if 'test/time' in times:  # per batch, with post-processing
        seconds = np.median(times['test/time'].data[0] - times['test/data_time'].data[0])
        where = torch.cuda.get_device_name(device) if on_gpu else device
        text = f'{1000 * seconds:.1f} ms per batch on {where}, without data loading'
        rows.append(('inference, median', text))
    memory = peak_memory_mb(on_gpu)
    if memory is not None:
        rows.append(('memory in evaluation', f'{memory:,.0f} MB at most'))
    return rows
