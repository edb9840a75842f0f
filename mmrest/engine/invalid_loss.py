"""A run that diverges ends instead of training on what is no number."""

from typing import Optional, Tuple

import torch
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from .errors import UsageError


@HOOKS.register_module()
class InvalidLossHook(Hook):
    """Ends a run whose loss was infinite or not a number, before a checkpoint of it is saved.

    Every loss is looked at on its device. To ask for the outcome waits for the device, so that is
    done in intervals, before a checkpoint or an evaluation, and at the end.

    Args:
        interval: iterations between two questions.
    """

    # After LoggerHook, so that the parts of the loss stand in the log, and before CheckpointHook,
    # which must not put a broken model in the place of a good one.
    priority = 'LOW'

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval
        self._first: Optional[Tuple[Tensor, Tensor]] = None
        """The first loss that was invalid, or else the last one, and its iteration."""

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Optional[dict] = None,
        outputs: Optional[dict] = None,
    ) -> None:
        """Look at the loss.

        Raises:
            UsageError: one was infinite or not a number.
        """
        loss = outputs['loss'].detach()
        now = loss, torch.full_like(loss, runner.iter + 1, dtype=torch.int64)
        if self._first is None:
            self._first = now
        else:
            good = self._first[0].isfinite()
            self._first = tuple(torch.where(good, *pair) for pair in zip(now, self._first))
        if self.every_n_train_iters(runner, self.interval) or any(
            isinstance(hook, CheckpointHook) and _saves_now(hook, runner) for hook in runner.hooks
        ):
            self._ask()

    def after_train_epoch(self, runner: Runner) -> None:
        """As :meth:`after_train_iter`."""
        self._ask()

    def before_val_epoch(self, runner: Runner) -> None:
        """As :meth:`after_train_iter`: the best checkpoint is saved after it."""
        self._ask()

    def _ask(self) -> None:
        if self._first is None or self._first[0].isfinite():
            return
        loss, iteration = (value.item() for value in self._first)
        raise UsageError(
            f'the loss is {loss} after iteration {iteration}; go on from the last good '
            'checkpoint (--resume PATH) with a lower optim_wrapper.optimizer.lr, a longer '
            'warm-up, optim_wrapper.clip_grad=dict(max_norm=1), or without --amp'
        )


def _saves_now(hook: CheckpointHook, runner: Runner) -> bool:
    return not hook.by_epoch and (
        hook.every_n_train_iters(runner, hook.interval, hook.save_begin)
        or (hook.save_last and hook.is_last_train_iter(runner))
    )
