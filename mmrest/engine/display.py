"""Console output of a run: one screen in a terminal, or MMEngine's log with throughput and memory.

In a terminal, the log is only in its file. The console shows a summary of the run, its progress,
a table per evaluation, and warnings.
"""

import contextlib
import io
import logging
import math
import operator
import os
import pdb
import sys
from numbers import Real
from typing import Any, Callable, Dict, Iterator, Optional, Tuple

from mmengine.device import get_device
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import MMLogger
from mmengine.runner import EpochBasedTrainLoop, Runner
from rich import progress
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text
from torch import Tensor, cuda, nn

from ..datasets.palette import fill_palette
from ..errors import counted
from ..models.pretrained import from_files
from .compat import is_resuming, loaded_from
from .config import total_batch_size
from .devices import peak_memory_mb
from .distributed import unwrapped

MAIN_METRICS = ('coco/segm_mAP', 'coco/bbox_mAP', 'mIoU')
"""Main metrics, in order of preference, of runs without ``save_best``."""

_NOISE = (
    'paramwise_options -- ',  # one line per parameter
    '"FileClient" will be deprecated',
    '"HardDiskBackend" is the alias',
    'is skipped since its requires_grad=False',  # one line per frozen parameter
    'The prefix is not set in metric class',
)
"""Substrings of log lines that are only in the log file."""


def say(message: str) -> None:
    """Log a line, and show it on the screen."""
    MMLogger.get_current_instance().info(message, extra={'screen': True})


class _ScreenHandler(logging.Handler):
    """Handler that prints warnings, and lines of :func:`say`, above the progress bar."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        message = escape(record.getMessage())
        if record.levelno >= logging.WARNING:
            style = 'bold red' if record.levelno >= logging.ERROR else 'yellow'
            message = f'[{style}]{record.levelname.lower()}:[/] {message}'
        elif not hasattr(record, 'screen'):
            return
        self._console.print(message, highlight=False)


class ScreenRunner(Runner):
    """Runner with quiet console output; the log file is complete."""

    console: Optional[Console] = None
    """Terminal of the screen, set by a subclass; None logs to the console, as MMEngine does."""

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        for handler in list(logger.handlers):
            if isinstance(handler, logging.FileHandler):
                continue
            if self.console is not None and is_main_process():
                logger.removeHandler(handler)
                handler = _ScreenHandler(self.console)
                logger.addHandler(handler)
            handler.addFilter(lambda record: not any(t in record.getMessage() for t in _NOISE))
        return logger

    def train(self) -> nn.Module:
        with self.on_screen():
            return super().train()

    def test(self) -> Dict[str, float]:
        with self.on_screen():
            return super().test()

    @contextlib.contextmanager
    def on_screen(self) -> Iterator[None]:
        """Log the output of libraries such as pycocotools, and stop a bar that an error left."""
        if self.console is None:
            yield
            return
        before, log = sys.breakpointhook, _Logged(self.logger)
        if before is sys.__breakpointhook__ and 'PYTHONBREAKPOINT' not in os.environ:
            sys.breakpointhook = self._debug
        with contextlib.redirect_stdout(log):
            try:
                yield
            finally:
                sys.breakpointhook = before
                log.flush()
                self._stop_bars()

    def _stop_bars(self) -> None:
        for hook in self.hooks:
            if isinstance(hook, DisplayHook):
                hook.stop()

    def _debug(self, *args: Any, **kwargs: Any) -> None:
        """Start the debugger of ``breakpoint()`` in the terminal rather than in the log."""
        self._stop_bars()
        pdb.Pdb(stdout=sys.__stdout__).set_trace(sys._getframe(1))


class _Logged(io.TextIOBase):
    """A stream whose lines go to a logger."""

    def __init__(self, logger: MMLogger) -> None:
        self._logger = logger
        self._line = ''

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split('\n')
        for line in lines:
            if line.strip():
                self._logger.info(line.rstrip())
        return len(text)

    def flush(self) -> None:
        if self._line:  # such as the prompt of input()
            self.write('\n')


class DisplayHook(Hook):
    """Hook that shows throughput, memory, progress and the best metric so far.

    The log gets ``img_per_s``, the best metric so far after each evaluation and, without a GPU,
    ``memory_mb``, the peak memory of the process; mmengine logs that of GPUs itself. A `console`
    shows a summary of the run, progress bars, and a table per evaluation.
    """

    priority = 'NORMAL'  # before LoggerHook, which writes what this hook measures

    def __init__(self, console: Optional[Console] = None) -> None:
        self._console = console if is_main_process() else None
        self._progress: Optional[progress.Progress] = None
        self._best: Optional[str] = None

    def before_train(self, runner: Runner) -> None:
        if self._console is not None:
            self._console.print(introduction(runner))

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if self._progress is None:
            self._start('train', runner.max_iters, done=runner.iter)

    def after_train_iter(self, runner: Runner, data_batch: Any = None, **kwargs: Any) -> None:
        hub, window = runner.message_hub, runner.log_processor.window_size
        images = data_batch.get('inputs') if isinstance(data_batch, dict) else None
        timed = 'train/time' in hub.log_scalars  # by IterTimerHook, which a config may omit
        if timed and images is not None and not isinstance(images, dict):
            # Averaged over as many iterations as the time in the same line.
            hub.update_scalar('images', len(images))  # not in the log, without a prefix
            images_each = hub.get_scalar('images').mean(window)
            seconds = hub.get_scalar('train/time').mean(window)
            hub.update_scalar('train/img_per_s', images_each * get_world_size() / seconds)
        memory = peak_memory_mb()
        if memory is not None and not cuda.is_available():
            hub.update_scalar('train/memory_mb', memory)
        for name in {'images', 'train/img_per_s', 'train/memory_mb'} & hub.log_scalars.keys():
            hub.get_scalar(name).max_length = 10_000  # each update copies all values
        if self._progress is None:
            return
        done = f'iter {runner.iter + 1}/{runner.max_iters}'
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            done = f'epoch {runner.epoch + 1}/{runner.max_epochs}'
        forms = dict(loss='loss {:.4g}', lr='lr {:.2g}', img_per_s='{:.3g} img/s')
        numbers = []
        for name, form in forms.items():
            if f'train/{name}' in hub.log_scalars:
                numbers.append(form.format(hub.get_scalar(f'train/{name}').mean(window)))
        if memory is not None:
            numbers.append(f'{memory / 1024:.1f} GiB')
        (task,) = self._progress.task_ids
        self._progress.update(task, advance=1, description=done, numbers=' '.join(numbers))

    def _before_epoch(self, runner: Runner, mode: str = 'train') -> None:
        if mode != 'train':
            fill_palette(runner.visualizer.dataset_meta)
            loader = runner.val_dataloader if mode == 'val' else runner.test_dataloader
            self._start('evaluation' if mode == 'val' else 'test', len(loader))

    def after_val_iter(self, *args: Any, **kwargs: Any) -> None:
        if self._progress is not None:
            self._progress.advance(self._progress.task_ids[0])

    after_test_iter = after_val_iter

    def after_val_epoch(self, runner: Runner, metrics: Optional[Dict[str, float]] = None) -> None:
        """Update the best metric, before CheckpointHook saves it, and show the metrics."""
        metrics, self._best = scalars(metrics or {}), None
        if not metrics or runner.iter == 0:  # no training
            self._show(metrics)
            return
        name, is_better = _main_metric(runner, metrics)
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        now = f'epoch {runner.epoch}' if by_epoch else f'iteration {runner.iter}'
        # Checkpoints contain the hub, so a resumed run knows the best metric so far.
        best = runner.message_hub.runtime_info.get('best_so_far', {})
        before, _ = best.get(name, (math.nan, now))
        if is_better(metrics[name], before) or math.isnan(before):
            best = {**best, name: (metrics[name], now)}
            runner.message_hub.update_info('best_so_far', best)
        self._best = f'{name} {best[name][0]:.4f} ({best[name][1]})'
        self._show(metrics, f'{now}, best so far: {self._best}')

    def after_test_epoch(self, runner: Runner, metrics: Optional[Dict[str, float]] = None) -> None:
        """Add the memory to the metrics that LoggerHook writes, and show them."""
        self._show(scalars(metrics or {}))
        memory = peak_memory_mb()
        if memory is not None:
            runner.message_hub.update_scalar('test/memory_mb', memory)

    def after_val(self, runner: Runner) -> None:
        if self._best is not None:  # after LoggerHook has logged the current one
            runner.logger.info(f'best so far: {self._best}')

    def after_train(self, runner: Runner) -> None:
        self.stop()
        self._say(f'checkpoints and log: {runner.work_dir}')

    def _say(self, line: str) -> None:
        if self._console is not None:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _show(self, metrics: Dict[str, float], title: Optional[str] = None) -> None:
        self.stop()
        if self._console is None or not metrics:
            return
        table = Table(box=None, show_header=False)
        for name, value in metrics.items():
            # COCO's metrics are -1 without objects of that size.
            table.add_row(escape(name), '-' if value == -1 else f'{value:.4f}')
        if title is not None:
            self._say(title)
        self._console.print(table)

    def _start(self, what: str, total: int, done: int = 0) -> None:
        self.stop()
        if self._console is None:
            return
        columns = ()
        if what == 'train':  # they fit in 80 columns
            rest = Column(ratio=1, no_wrap=True)
            numbers = progress.TextColumn('{task.fields[numbers]}', table_column=rest)
            columns = (progress.TaskProgressColumn(), progress.TimeRemainingColumn(), numbers)
        # The output of libraries is redirected to the log.
        options = dict(expand=what == 'train', transient=True, redirect_stdout=False)
        self._progress = progress_bar(self._console, 'it', *columns, **options)
        self._progress.add_task(what, total=total, completed=done, numbers='')
        self._progress.start()

    def stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def scalars(metrics: Dict[str, Any]) -> Dict[str, float]:
    """Return the metrics that are numbers, rather than one per class or a matrix."""
    return {
        name: float(value)
        for name, value in metrics.items()
        if isinstance(value, Real) or (isinstance(value, Tensor) and value.numel() == 1)
    }


def introduction(runner: Runner) -> Table:
    """Return a summary of a run: network, data, schedule, device and folder."""
    model = unwrapped(runner)
    backbone = getattr(model, 'backbone', None)
    loader, loop = runner.train_dataloader, runner.train_loop
    batch, _ = total_batch_size(runner.cfg, get_world_size())
    length = counted(runner.max_iters, 'iteration')
    if isinstance(loop, EpochBasedTrainLoop):
        length = f'{counted(runner.max_epochs, "epoch")} of {counted(len(loader), "iteration")}'
    data = f'{counted(len(loader.dataset), "image")} to train on'
    if runner.val_loop is not None:
        data += f', {len(runner.val_dataloader.dataset):,} to evaluate on'
    rows = {
        'config': runner.experiment_name.rpartition('_')[0].rpartition('_')[0],
        'model': f'{type(model).__name__}, {_millions(model)}',
        'backbone': backbone and f'{type(backbone).__name__}, {_millions(backbone)}',
        'data': data,
        'schedule': f'{length}, total batch size {batch}',
        'device': get_device() + (f' x {get_world_size()}' if get_world_size() > 1 else ''),
        'weights': _origin(runner),
        'log': runner.log_dir,
    }
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style='bold')
    table.add_column(overflow='fold')
    for name, value in rows.items():
        if value:
            table.add_row(name, escape(str(value)))
    return table


def _origin(runner: Runner) -> str:
    """Return the source of the weights; :mod:`.weight_hooks` logs how many tensors match."""
    if loaded_from(runner):
        return f'{"resumed" if is_resuming(runner) else "initialised"} from {loaded_from(runner)}'
    files = from_files(unwrapped(runner))
    parts = [f'{name or "model"} from {cfg["checkpoint"]}' for name, _, cfg in files]
    return ', '.join(parts) or 'random'


def _millions(module: nn.Module) -> str:
    return f'{sum(p.numel() for p in module.parameters()) / 1e6:.1f} M parameters'


def progress_bar(
    console: Console, unit: str, *columns: progress.ProgressColumn, **options: Any
) -> progress.Progress:
    """Return a bar with `columns`: by default, number of steps, rate per `unit` and ETA."""
    bar = progress.BarColumn(bar_width=8 if columns else 20)
    rate = _RateColumn(f'{{task.speed:.1f}} {unit}/s')
    columns = columns or (progress.MofNCompleteColumn(), rate, progress.TimeRemainingColumn())
    columns = (progress.TextColumn('{task.description}'), bar, *columns)
    return progress.Progress(*columns, console=console, **options)


class _RateColumn(progress.TextColumn):
    """Column that is empty as long as the speed is unknown."""

    def render(self, task: progress.Task) -> Text:
        return Text() if task.speed is None else super().render(task)


def _main_metric(runner: Runner, metrics: Dict[str, float]) -> Tuple[str, Callable[..., bool]]:
    """Return the name of the main metric of a run, and its comparison.

    It is the metric of ``save_best``, or else one of :data:`MAIN_METRICS`, or else the first.
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
