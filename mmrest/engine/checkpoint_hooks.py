"""Checkpoint hooks: atomic writes, old files removed only afterwards, valid losses only."""

import os
import re
from collections import deque
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import torch
from mmengine import dist
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from ..checkpoint import CheckpointError, read_checkpoint, remove_unfinished
from ..errors import UsageError, counted
from .compat import AtomicLocalBackend, is_resuming

INTERRUPTED = 'interrupted.pth'
"""Checkpoint of a preempted run; the next regular checkpoint replaces it."""

LAST = 'last_checkpoint'
"""File in a work dir from which mmengine and mmdet read the path of its newest checkpoint."""

_KEY = 'mmrest'
"""Checkpoint key for the states of mmrest's loops: a list with one entry per rank."""


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """CheckpointHook with atomic writes, see :func:`.compat.install_file_access`.

    An old checkpoint is removed only after the new one has been written and read back. The
    previous best checkpoint is removed only after the new best one has been written. Checkpoints
    contain the state that :mod:`.loops` needs for a bit-exact resume.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in self.args:  # mmengine would only fail at the first checkpoint
            raise TypeError(f"CheckpointHook got an unexpected keyword argument '{name}'")
        if self.filename_tmpl.format(0) == self.filename_tmpl.format(1):
            self.max_keep_ckpts = -1  # each replaces the one before
        self._remembered: List[Dict[str, Any]] = []
        self._saved_iter: Optional[int] = None
        self._place: Dict[str, int] = {}  # epoch and iteration that are being saved
        self._loop: Any = None  # set in training; a run that only evaluates would build it

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        self._loop = runner.train_loop
        if self.save_best and len(self.key_indicators) == 1:
            (metric,) = self.key_indicators
            best = Path(self.best_ckpt_path or '').name
            names = 'epoch_', 'iter_', self.filename_tmpl.partition('{')[0]
            starts = tuple(f'best_{metric}_{name}'.replace('/', '_') for name in names)
            if best and metric != 'auto' and not best.startswith(starts):
                # A run with another metric is resumed, whose best score says nothing of this one.
                runner.message_hub.pop_info('best_score')
                self.best_ckpt_path = None
            self.best_ckpt_path = self._own(self.best_ckpt_path)
        elif self.save_best:
            paths = self.best_ckpt_path_dict
            paths.update({name: self._own(path) for name, path in paths.items()})
        if dist.is_main_process() and isinstance(self.file_backend, LocalBackend):
            for folder in {self.out_dir, runner.work_dir}:
                remove_unfinished(Path(folder))

    def _own(self, path: Optional[str]) -> Optional[str]:
        """Return the file of that name in this run's folder, or None if there is none.

        A checkpoint to resume may name one in another folder, which belongs to another run.
        """
        own = path and self.file_backend.join_path(self.out_dir, Path(path).name)
        return own if own and self.file_backend.isfile(own) else None

    def before_val_epoch(self, runner: Runner) -> None:
        """Give all ranks the batch norm statistics of rank 0, which the checkpoint contains.

        mmengine's SyncBuffersHook averages them, in iteration-based runs only after the checkpoint
        is saved.
        """
        for buffer in runner.model.buffers():  # the EMA ones: EMAHook has a higher priority
            dist.broadcast(buffer)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the state of the loop, except to checkpoints of other hooks."""
        if self._remembered:
            checkpoint[_KEY] = self._remembered
        # FlexibleRunner overwrites the epoch and iteration of its argument.
        checkpoint['meta'].update(self._place)

    def after_val_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        # On SIGTERM or Ctrl-C; the loop saves.
        if hasattr(self._loop, 'stop_evaluation'):
            self._loop.stop_evaluation()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if not is_resuming(runner) or not hasattr(runner.train_loop, 'recall'):
            return
        remembered = checkpoint.get(_KEY, [])
        if len(remembered) != dist.get_world_size():
            runner.logger.warning(
                'resuming is not bit-exact: the checkpoint has the random states of '
                f'{counted(len(remembered), "process", "es")}, the run has {dist.get_world_size()}'
            )
        if remembered:  # all ranks must agree on what is next, also further ones
            rank, further = dist.get_rank(), dict(remembered[0], random_states=None)
            own = remembered[rank] if rank < len(remembered) else further
            runner.train_loop.recall(own, checkpoint['meta'])

    def save_now(self, runner: Runner, epoch: int, iteration: int) -> str:
        """Save between two regular checkpoints, on all ranks, and return the newest one."""
        if self._saved_iter == iteration:
            return self.last_ckpt
        path = self._write(runner, INTERRUPTED, dict(epoch=epoch, iter=iteration))
        dist.barrier()  # if one process ends, the launcher ends the others
        return path

    def _write(self, runner: Runner, name: str, meta: dict) -> str:
        runner.call_hook('before_checkpoint')  # on all ranks, unlike before_save_checkpoint
        if hasattr(runner.train_loop, 'remembered'):
            self._remembered = dist.all_gather_object(runner.train_loop.remembered())
        self._place = dict(meta)
        own = ('save_optimizer', 'save_param_scheduler', 'by_epoch', 'backend_args')
        options = {option: getattr(self, option) for option in own}
        runner.save_checkpoint(self.out_dir, name, self.file_client_args, meta=meta, **options)
        self._place, self._remembered = {}, []
        path = self.file_backend.join_path(self.out_dir, name)
        if dist.is_main_process():
            noted = Path(runner.work_dir) / LAST
            AtomicLocalBackend().put(os.fsencode(path), noted)  # whatever the locale
        return path

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        meta = {**meta, **self._place}
        if self._place and hasattr(runner.train_loop, 'evaluated'):
            # mmengine saves it again with the best score, before EarlyStoppingHook has counted.
            later = runner.hooks[runner.hooks.index(self) :]
            counting = any(isinstance(hook, EarlyStoppingHook) for hook in later)
            if counting and self._saved_iter == meta['iter']:
                return  # resumed runs repeat the evaluation, after what it changes
            runner.train_loop.evaluated = not counting
        outdated = []
        if self.max_keep_ckpts > 0:
            saved = [*(before for before in self.keep_ckpt_ids if before != step), step]
            self.keep_ckpt_ids = deque(saved, self.max_keep_ckpts)
            outdated = saved[: -self.max_keep_ckpts]
            # Also outdated ones: if the run is killed before it removes them, before_train does.
            runner.message_hub.update_info('keep_ckpt_ids', saved)
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        self._write(runner, name, dict(meta))  # which FlexibleRunner changes
        if dist.is_main_process():
            # Also the first one, so that a run finds out early if it could not be resumed.
            is_due = outdated or self._saved_iter is None
            if is_due and Path(self.last_ckpt).is_file():  # neither remote nor sharded
                read_checkpoint(self.last_ckpt)
            for old in (*map(self.filename_tmpl.format, outdated), INTERRUPTED):
                self._remove(self.file_backend.join_path(self.out_dir, old))
        self._saved_iter = meta['iter']
        if outdated:
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))

    def _publish_model(self, runner: Runner, ckpt_path: Optional[str]) -> None:
        if ckpt_path is not None:  # there may be no best one
            super()._publish_model(runner, ckpt_path)

    def _remove(self, path: str) -> None:
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):  # what sharded optimizers write
            self.file_backend.rmtree(path)

    def _save_best_checkpoint(self, runner: Runner, metrics: Dict[str, Any]) -> None:
        if not self.save_best:
            return
        # mmengine removes the previous best one, if it knows its path, before writing the new one.
        single = len(self.key_indicators) == 1
        known = vars(self) if single else self.best_ckpt_path_dict
        before = {name: known[name] for name in (['best_ckpt_path'] if single else known)}
        known.update(dict.fromkeys(before))
        self._place = dict(epoch=runner.epoch, iter=runner.iter)
        try:
            super()._save_best_checkpoint(runner, metrics)
        finally:
            self._place = {}
            known.update({name: known[name] or path for name, path in before.items()})
        for name, path in before.items():
            if dist.is_main_process() and path not in (None, known[name]):
                runner.logger.info(f'removing {path}, the previous best checkpoint')
                self._remove(path)


@HOOKS.register_module()
class InvalidLossHook(Hook):
    """Hook that stops a run when its loss becomes NaN or Inf, before a checkpoint is saved.

    Every loss is checked on its device. Reading the result synchronises with the device, so it is
    read only at intervals, before a checkpoint or an evaluation, and after each epoch.

    Args:
        interval: iterations between synchronisations.

    Raises:
        UsageError: a loss was NaN or Inf.
    """

    # After LoggerHook, so that the parts of the loss are logged, and before CheckpointHook, which
    # must not replace a good model with a broken one.
    priority = 'LOW'

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval
        # First invalid loss, or else the last one, and its iteration.
        self._first: Optional[Tuple[Tensor, Tensor]] = None

    def after_train_iter(self, runner: Runner, outputs: dict, **kwargs: Any) -> None:
        loss = outputs['loss'].detach()
        now = loss, torch.full_like(loss, runner.iter + 1, dtype=torch.int64)
        if self._first is not None:
            good = self._first[0].isfinite()
            now = tuple(torch.where(good, *pair) for pair in zip(now, self._first))
        self._first = now
        if self.every_n_train_iters(runner, self.interval):
            self._ask()

    def _ask(self, *args: Any, **kwargs: Any) -> None:
        if self._first is None or self._first[0].isfinite():
            return
        loss, iteration = (value.item() for value in self._first)
        raise UsageError(
            f'the loss is {loss} after iteration {iteration}; resume from the last good '
            'checkpoint (--resume PATH) with a lower optim_wrapper.optimizer.lr, a longer '
            'warm-up, optim_wrapper.clip_grad=dict(max_norm=1), or without --amp'
        )

    before_checkpoint = before_save_checkpoint = after_train_epoch = before_val_epoch = _ask


def newest_checkpoint(work_dir: str, hook: Optional[dict] = None) -> Optional[str]:
    """Return the checkpoint that a work dir names, or else the one written last, or None.

    The config of the checkpoint `hook` may name another folder or other files.

    Raises:
        CheckpointError: the work dir names one that is missing.
    """
    hook, folder = hook or {}, Path(work_dir)
    noted = folder / LAST
    last = os.fsdecode(noted.read_bytes()).strip() if noted.is_file() else ''
    if '://' in last:
        return last
    if hook.get('out_dir'):
        folder = Path(hook['out_dir']) / folder.name
    # The folder may have been moved, or copied: then all files have the same time, and those of
    # the first folder may still be there.
    if last and (folder / Path(last).name).exists():
        return str(folder / Path(last).name)
    own = re.sub(r'\\\{.*?\\\}', r'\\d+', re.escape(hook.get('filename_tmpl') or INTERRUPTED))
    # Not published files, such as epoch_1-d77de378.pth, which contain only weights.
    pattern = re.compile(rf'{own}|{re.escape(INTERRUPTED)}|(?:epoch|iter)_\d+\.pth')
    paths = [path for path in folder.glob('*') if pattern.fullmatch(path.name)]
    newest = max(paths, key=lambda path: path.stat().st_mtime_ns, default=None)
    if last and Path(last).exists() and not (newest and (Path(last).parent / LAST).exists()):
        return last  # an out_dir, not the folder of another run
    if last and newest is None:
        raise CheckpointError(f'{noted} names {last}, which was not found; pass a path')
    return newest and str(newest)
