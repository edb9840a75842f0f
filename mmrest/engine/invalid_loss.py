"""Stop training when the loss becomes NaN or Inf."""

from typing import Optional, Tuple

import torch
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from .errors import UsageError


@HOOKS.register_module()
class InvalidLossHook(Hook):
    """Stops a run whose loss became NaN or Inf, before a checkpoint of it is saved.

    Every loss is checked on its device. Reading the result synchronises with the device, so that
    is done at intervals, before a checkpoint or an evaluation, and at the end.

    Args:
        interval: iterations between two synchronisations.
    """

    # After LoggerHook, so that the parts of the loss are logged, and before CheckpointHook, which
    # must not replace a good model by a broken one.
    priority = 'LOW'

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval
        self._first: Optional[Tuple[Tensor, Tensor]] = None
        """First invalid loss, or else the last one, and its iteration."""

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Optional[dict] = None,
        outputs: Optional[dict] = None,
    ) -> None:
        """Check the loss.

        Raises:
            UsageError: a loss was NaN or Inf.
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
            f'the loss is {loss} after iteration {iteration}; resume from the last good '
            'checkpoint (--resume PATH) with a lower optim_wrapper.optimizer.lr, a longer '
            'warm-up, optim_wrapper.clip_grad=dict(max_norm=1), or without --amp'
        )


def _saves_now(hook: CheckpointHook, runner: Runner) -> bool:
    return not hook.by_epoch and (
        hook.every_n_train_iters(runner, hook.interval, hook.save_begin)
        or (hook.save_last and hook.is_last_train_iter(runner))
    )
