"""Evaluation of a checkpoint that remembers every class and every image."""

import statistics
import tempfile
import time
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Optional, Sequence, Union

import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset, pseudo_collate
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from ..engine.building import build_runner
from ..engine.config import is_classifier
from ..engine.devices import peak_memory_mb
from ..engine.errors import UsageError
from ..engine.weights import StrictWeightsHook
from ..preflight import rehearse
from .label_map_scores import LabelMapScores

if TYPE_CHECKING:  # it needs pycocotools, which segmentors and classifiers do without
    from .instance_scores import InstanceScores

Scores = Union['InstanceScores', LabelMapScores]


class Evaluation(NamedTuple):
    """What a checkpoint is worth.

    Attributes:
        phase: the data set, 'val' or 'test'.
        metrics: what the config's own evaluators say.
        scores: of classes and images.
        metainfo: of the data set, with ``classes`` and maybe ``palette``.
        images: how many there are.
        parameters: of the network.
        seconds: of one image in the network and what follows it (non-maximum suppression, masks,
            resizing), the median of some.
        memory: the most that was held, in MB: of the GPU where there is one.
        device: what it ran on.
    """

    phase: str
    metrics: Dict[str, float]
    scores: Scores
    metainfo: Dict[str, Any]
    images: int
    parameters: int
    seconds: float
    memory: Optional[float]
    device: str


class ScoresHook(Hook):
    """Keeps the scores of a test.

    Args:
        score_thr: see :class:`.InstanceScores`.
    """

    def __init__(self, score_thr: float) -> None:
        self._score_thr = score_thr
        self.scores: Optional[Scores] = None

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Optional[dict] = None,
        outputs: Optional[Sequence[Any]] = None,
    ) -> None:
        """Count the images of a batch."""
        for sample in outputs or ():
            if self.scores is None:
                self.scores = self._start(sample, runner.test_loop.dataloader.dataset)
            self.scores.add(sample.cpu())

    def _start(self, sample: Any, dataset: BaseDataset) -> Scores:
        classes = dataset.metainfo.get('classes') or ()
        if 'pred_instances' in sample:
            from .instance_scores import InstanceScores

            by_path = {}
            for index in range(len(dataset)):
                info = dataset.get_data_info(index)
                by_path[info['img_path']] = info.get('instances', [])
            return InstanceScores(classes, by_path.__getitem__, self._score_thr)
        if 'pred_sem_seg' in sample and 'gt_sem_seg' in sample:
            return LabelMapScores(classes, getattr(dataset, 'ignore_index', 255))
        raise UsageError(
            'the images of the evaluation have neither instances nor label maps to compare with; '
            'give --no-eval'
        )


def evaluate(cfg: Config, checkpoint: str, device: torch.device, score_thr: float) -> Evaluation:
    """Evaluate a checkpoint on the val set of its config, or else on the test set.

    Nothing is written where the config's work dir is.

    Args:
        cfg: config of the run; changed.
        checkpoint: path of its weights.
        device: what to run on.
        score_thr: see :class:`.InstanceScores`.

    Raises:
        UsageError: it is the config of a classifier, or see :func:`mmrest.preflight.rehearse`.
        CheckpointError: the weights cannot be read or do not fit.
    """
    if is_classifier(cfg):
        raise UsageError(
            f'{cfg.filename} is the config of a classifier, where reports evaluate detectors and '
            'segmentors; give --no-eval'
        )
    phase = 'val' if cfg.get('val_dataloader') else 'test'
    if not cfg.get(f'{phase}_dataloader'):
        raise UsageError('the config has no val_dataloader to evaluate on; give --no-eval')
    # As a test: evaluations of a training would save the best checkpoint.
    cfg.test_dataloader, cfg.test_evaluator = cfg[f'{phase}_dataloader'], cfg[f'{phase}_evaluator']
    cfg.test_cfg = dict(type='TestLoop')
    cfg.load_from, cfg.resume, cfg.launcher = checkpoint, False, 'none'
    if 'visualization' in (cfg.get('default_hooks') or {}):
        cfg.default_hooks.visualization.draw = False
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = folder
        rehearsal = rehearse(cfg, ('test',))
        runner = build_runner(cfg)
        rehearsal.hand_over(runner)
        runner.register_hook(StrictWeightsHook())
        hook = ScoresHook(score_thr)
        runner.register_hook(hook, priority='VERY_LOW')
        runner.model.to(device)
        metrics = runner.test()
    dataset = runner.test_loop.dataloader.dataset
    return Evaluation(
        phase,
        metrics,
        hook.scores,
        dataset.metainfo,
        len(dataset),
        sum(parameter.numel() for parameter in runner.model.parameters()),
        statistics.median(seconds_per_image(runner.model, dataset)),
        peak_memory_mb(),
        torch.cuda.get_device_name(device) if device.type == 'cuda' else str(device),
    )


def seconds_per_image(model: nn.Module, dataset: BaseDataset, count: int = 10) -> List[float]:
    """Times of single images in a network, data loading left out, after one to warm up.

    Args:
        model: a detector of mmdet or a segmentor of mmseg.
        dataset: its test set.
        count: how many images are timed, those of a smaller set more than once.
    """
    times = []
    model.eval()
    for index in range(count + 1):
        batch = pseudo_collate([dataset[index % len(dataset)]])
        start = time.perf_counter()
        with torch.no_grad():
            model.test_step(batch)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if index > 0:
            times.append(time.perf_counter() - start)
    return times
