"""A run that diverges ends instead of training on what is no number."""

import math
from typing import Optional

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from .errors import UsageError


@HOOKS.register_module()
class InvalidLossHook(Hook):
    """Ends a run whose loss is infinite or not a number.

    Args:
        interval: iterations between two looks, of which each waits for the device; one more ends
            an epoch.
    """

    # After LoggerHook, so that the parts of the loss stand in the log, and before CheckpointHook,
    # which must not put a broken model in the place of a good one.
    priority = 'LOW'

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Optional[dict] = None,
        outputs: Optional[dict] = None,
    ) -> None:
        """Look at the loss.

        Raises:
            UsageError: it is infinite or not a number.
        """
        due = self.every_n_train_iters(runner, self.interval)
        if not due and not self.end_of_epoch(runner.train_dataloader, batch_idx):
            return
        loss = float(outputs['loss'])
        if not math.isfinite(loss):
            raise UsageError(
                f'the loss is {loss} after iteration {runner.iter + 1}; go on from the last good '
                'checkpoint (--resume PATH) with a lower optim_wrapper.optimizer.lr, a longer '
                'warm-up, optim_wrapper.clip_grad=dict(max_norm=1), or without --amp'
            )
