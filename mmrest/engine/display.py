"""What a person wants to see of a run beyond mmengine's log."""

import atexit
import math
import operator
import sys
from logging import StreamHandler
from typing import Any, Callable, Dict, Optional, Tuple

import numpy as np
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from torch import cuda

try:
    import resource
except ImportError:  # Windows has none
    resource = None

Comparison = Callable[[float, float], bool]

MAIN_METRICS = ('coco/segm_mAP', 'coco/bbox_mAP', 'mIoU')
"""What a run is judged by where its config names no metric to save the best checkpoint by."""


class DisplayHook(Hook):
    """Shows rate and memory of training, evaluation as it goes on, and the best metric so far.

    - Lines of the training log get ``img_per_s`` and, where there is no GPU whose memory mmengine
      would show, ``memory_mb``: the most that the process has held so far.
    - On a terminal, evaluation shows a bar with its rate and the time that remains.
    - Every evaluation of a training run ends with the best metric so far and where it was reached.

    Args:
        console: where the bar is drawn; default: stdout.
    """

    priority = 'NORMAL'  # before LoggerHook, which writes what this one measures

    def __init__(self, console: Optional[Console] = None) -> None:
        self._console = console or Console()
        self._progress: Optional[Progress] = None
        self._best: Optional[str] = None

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Optional[dict] = None,
        outputs: Optional[dict] = None,
    ) -> None:
        """Measure rate and memory."""
        hub = runner.message_hub
        images = data_batch.get('inputs') if isinstance(data_batch, dict) else None
        timed = 'train/time' in hub.log_scalars  # by IterTimerHook, which a config may leave out
        if timed and images is not None and not isinstance(images, dict):
            # Over as many iterations as the time that stands in the same line.
            seconds = hub.get_scalar('train/time').mean(runner.log_processor.window_size)
            hub.update_scalar('train/img_per_s', len(images) * get_world_size() / seconds)
        memory = None if cuda.is_available() else peak_memory_mb()
        if memory is not None:
            hub.update_scalar('train/memory_mb', memory)

    def before_val_epoch(self, runner: Runner) -> None:
        """Show the bar."""
        fill_palette(runner.visualizer.dataset_meta)
        self._start('evaluation', len(runner.val_dataloader), runner)

    def before_test_epoch(self, runner: Runner) -> None:
        """Show the bar."""
        fill_palette(runner.visualizer.dataset_meta)
        self._start('test', len(runner.test_dataloader), runner)

    def after_val_iter(self, *args: Any, **kwargs: Any) -> None:
        """Move the bar."""
        self._advance()

    def after_test_iter(self, *args: Any, **kwargs: Any) -> None:
        """Move the bar."""
        self._advance()

    def after_val_epoch(self, runner: Runner, metrics: Optional[Dict[str, float]] = None) -> None:
        """Remove the bar and keep the best, before CheckpointHook saves it."""
        self._stop()
        self._best = None
        if not metrics or runner.iter == 0:  # no training
            return
        name, is_better = main_metric(runner, metrics)
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        now = f'epoch {runner.epoch}' if by_epoch else f'iteration {runner.iter}'
        # The hub travels in checkpoints, so a resumed run knows the best of before.
        best = runner.message_hub.runtime_info.get('best_so_far', {})
        value = float(metrics[name])
        if name not in best or is_better(value, best[name][0]) or math.isnan(best[name][0]):
            best = {**best, name: (value, now)}
            runner.message_hub.update_info('best_so_far', best)
        self._best = f'{name} {best[name][0]:.4f} ({best[name][1]})'

    def after_test_epoch(self, runner: Runner, metrics: Optional[Dict[str, float]] = None) -> None:
        """Remove the bar, and add the memory to the metrics that LoggerHook writes."""
        self._stop()
        memory = peak_memory_mb()
        if memory is not None:
            runner.message_hub.update_scalar('test/memory_mb', memory)

    def after_val(self, runner: Runner) -> None:
        """Say what is the best so far, after LoggerHook has said what it is now."""
        if self._best is not None:
            runner.logger.info(f'best so far: {self._best}')

    def _start(self, what: str, total: int, runner: Runner) -> None:
        if not self._console.is_terminal or not is_main_process():
            return
        stdout = sys.stdout
        self._progress = progress_bar(self._console, 'it', transient=True)
        self._progress.add_task(what, total=total)
        self._progress.start()
        # Lines of the log must pass above the bar, and the cursor comes back whatever happens.
        _redirect(runner, stdout, sys.stdout)
        self._restore_log = lambda: _redirect(runner, sys.stdout, stdout)
        atexit.register(self._stop)

    def _advance(self) -> None:
        if self._progress is not None:
            self._progress.advance(self._progress.task_ids[0])

    def _stop(self) -> None:
        if self._progress is not None:
            self._restore_log()
            self._progress.stop()
            self._progress = None
            atexit.unregister(self._stop)


def fill_palette(metainfo: Optional[Dict[str, Any]]) -> None:
    """Give every class a colour; the renderers of mmdet and mmseg fail where one lacks.

    Args:
        metainfo: of a data set; its palette is filled up in place.
    """
    classes, palette = (metainfo or {}).get('classes'), (metainfo or {}).get('palette')
    if not isinstance(classes, (list, tuple)) or not isinstance(palette, (list, tuple)):
        return
    missing = len(classes) - len(palette)
    if missing > 0:
        colours = np.random.default_rng(0).integers(0, 256, (missing, 3))
        metainfo['palette'] = [*palette, *map(tuple, colours.tolist())]


def progress_bar(console: Console, unit: str, transient: bool = False) -> Progress:
    """A bar with the number of steps, their rate and the time that remains.

    Args:
        console: where it is drawn.
        unit: what to call a step in the rate.
        transient: whether the bar goes away in the end.
    """
    return Progress(
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(unit),
        TimeRemainingColumn(),
        console=console,
        transient=transient,
    )


class _RateColumn(ProgressColumn):
    """Steps a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text('' if task.speed is None else f'{task.speed:.1f} {self._unit}/s')


def _redirect(runner: Runner, old: Any, new: Any) -> None:
    for handler in runner.logger.handlers:
        if isinstance(handler, StreamHandler) and handler.stream is old:
            handler.setStream(new)


def main_metric(runner: Runner, metrics: Dict[str, float]) -> Tuple[str, Comparison]:
    """The metric that a run is judged by.

    Args:
        runner: of the run.
        metrics: what an evaluation gave; not empty.

    Returns:
        Its name, and whether a first value of it is better than a second. The metric is that of
        ``save_best``, or else a common one, or else the first.
    """
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook):
            for name in getattr(hook, 'key_indicators', None) or ():
                if name == 'auto':  # not resolved yet: it will be the first
                    return next(iter(metrics)), operator.gt
                if name in metrics:
                    return name, hook.is_better_than[name]
    name = next((name for name in MAIN_METRICS if name in metrics), next(iter(metrics)))
    return name, operator.gt


def peak_memory_mb() -> Optional[float]:
    """The most memory that this process has held, in MB; None where the system does not say.

    The memory is that of the GPU where there is one, else that of the process.
    """
    if cuda.is_available():
        return cuda.max_memory_allocated() / 2**20
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == 'darwin' else peak / 2**10
