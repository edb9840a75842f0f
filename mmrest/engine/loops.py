"""Training loops that resume at the exact batch, even in the middle of an epoch.

Otherwise they behave like mmengine's loops. A resumed run ends with the same weights as an
uninterrupted one, bit for bit if all ops are deterministic.
"""

import logging
from contextlib import closing
from typing import Any, Dict, List, Optional, Union

from mmengine.hooks import EarlyStoppingHook, EMAHook
from mmengine.logging import print_log
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from ..errors import Interrupted
from .compat import has_seed_per_rank
from .data_loading import (
    RandomStates,
    ResumableLoader,
    kept_random_states,
    random_states,
    set_random_states,
)
from .display import say
from .saving import AtomicCheckpointHook
from .signals import StopRequest


class _Resumable:
    """Mixin that makes mmengine's loops resumable.

    Attributes:
        evaluated: True if the evaluation due at this iteration is done.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: Union[DataLoader, Dict[str, Any]],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        if isinstance(dataloader, dict):
            dataloader = runner.build_dataloader(
                dataloader, seed=runner.seed, diff_rank_seed=has_seed_per_rank(runner)
            )
        super().__init__(runner, ResumableLoader(dataloader, runner.seed), *args, **kwargs)
        self.evaluated = False
        self._resumed: Optional[Dict[str, Any]] = None
        self._before_evaluation: Optional[RandomStates] = None
        self._stop = StopRequest()

    def remembered(self) -> Dict[str, Any]:
        """Return the state of the loop on this rank, for a checkpoint."""
        return dict(
            batches=len(self.dataloader),
            seeds=self.dataloader.seeds,
            evaluated=self.evaluated,
            patience=[(hook.wait_count, hook.best_score) for hook in self._patient()],
            random_states=self._before_evaluation or random_states(),
        )

    def recall(self, remembered: Optional[Dict[str, Any]]) -> None:
        """Restore the state of :meth:`remembered`; None for a checkpoint without it."""
        self._resumed = remembered or {}
        for hook, (count, best) in zip(self._patient(), self._resumed.get('patience', ())):
            hook.wait_count, hook.best_score = count, best
        batches = self._resumed.get('batches', len(self.dataloader))
        if batches != len(self.dataloader):
            print_log(
                f'the dataloader length changed from {batches} to {len(self.dataloader)} batches: '
                'the resumed run will not be bit-exact',
                'current',
                logging.WARNING,
            )

    def _patient(self) -> List[EarlyStoppingHook]:
        return [hook for hook in self.runner.hooks if isinstance(hook, EarlyStoppingHook)]

    def run(self) -> nn.Module:
        """Train, with evaluations.

        Raises:
            Interrupted: the process was asked to stop.
        """
        with self._stop:
            self.runner.call_hook('before_train')
            resumed, self._resumed = self._resumed, None
            try:
                self._run(resumed is not None, self._recalled(resumed))
            finally:
                self.dataloader.close()
            self.runner.call_hook('after_train')
        return self.runner.model

    def run_iter(self, *args: Any) -> None:
        """Train on one batch."""
        super().run_iter(*args)
        self.evaluated = False
        if self._stop.asked():
            self._interrupt()

    def _interrupt(self) -> None:
        message = f'stopped after iteration {self._iter} by SIGTERM'
        hooks = [hook for hook in self.runner.hooks if isinstance(hook, AtomicCheckpointHook)]
        for hook in hooks:
            path = hook.save_now(self.runner, self._epoch, self._iter)
            message += f'; saved {path}: continue with --resume'
        raise Interrupted(message)

    def stop_evaluation(self) -> None:
        """Raise Interrupted if a run of one process was asked to stop."""
        if self._stop.asked_here():
            raise Interrupted('stopped by SIGTERM')

    def _recalled(self, resumed: Optional[Dict[str, Any]]) -> Dict[str, Any]:
        """Set seeds and random states as they were at the checkpoint."""
        resumed = resumed or {}
        if 'seeds' in resumed:
            self.dataloader.seeds = resumed['seeds']
        if 'random_states' in resumed:
            set_random_states(resumed['random_states'])
        return resumed

    def _begin_at(self, batch: int) -> int:
        self.dataloader.batch_sampler.skip = batch
        if batch:
            say(f'resuming the dataloader at batch {batch} of the epoch')
        return batch

    def _evaluate_if_due(self, done: int, end: int) -> None:
        self._decide_current_val_interval()
        if self.runner.val_loop is None or done < self.val_begin:
            return
        if done % self.val_interval and done != end:
            return
        if self._stop.asked_here():
            self._interrupt()
        self._before_evaluation = random_states()
        try:
            with kept_random_states():
                self.runner.val_loop.run()
        except Interrupted:  # after a batch: see stop_evaluation
            for hook in self.runner.hooks:
                if isinstance(hook, EMAHook):
                    hook.after_val_epoch(self.runner)  # restores the weights of the training
            self._interrupt()
        finally:
            self._before_evaluation = None
        self.evaluated = True


@LOOPS.register_module()
class ResumableEpochLoop(_Resumable, EpochBasedTrainLoop):
    """EpochBasedTrainLoop that resumes at the next batch."""

    def _run(self, resuming: bool, resumed: Dict[str, Any]) -> None:
        batches, done = len(self.dataloader), 0
        if resuming:
            done = self._iter - self._epoch * batches
            if not 0 <= done <= batches:
                done = 0
            if done == 0 and not resumed.get('evaluated', True):
                say('running the evaluation that was interrupted')
                self._evaluate_if_due(self._epoch, self._max_epochs)
        while self._epoch < self._max_epochs and not self.stop_training:
            self._run_epoch(done, resumed)
            done, resumed = 0, {}
            self._evaluate_if_due(self._epoch, self._max_epochs)

    def _run_epoch(self, done: int, resumed: Dict[str, Any]) -> None:
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        self._recalled(resumed)  # again, because hooks may use random numbers
        first = self._begin_at(done)
        with closing(iter(self.dataloader)) as batches:
            for index, batch in enumerate(batches, start=first):
                self.run_iter(index, batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1


@LOOPS.register_module()
class ResumableIterLoop(_Resumable, IterBasedTrainLoop):
    """IterBasedTrainLoop that resumes at the next batch."""

    def _run(self, resuming: bool, resumed: Dict[str, Any]) -> None:
        self.runner.call_hook('before_train_epoch')
        if resuming and self._iter and not resumed.get('evaluated', True):
            self._evaluate_if_due(self._iter, self._max_iters)
        batches, sampler = self._iter, self.dataloader.batch_sampler
        if not sampler.is_endless:
            epoch, batches = divmod(self._iter, len(self.dataloader))
            self.dataloader_iterator._epoch = epoch
            if hasattr(sampler.sampler, 'set_epoch'):
                sampler.sampler.set_epoch(epoch)
        self._recalled(resumed)
        self._begin_at(batches)
        try:
            while self._iter < self._max_iters and not self.stop_training:
                self.runner.model.train()
                self.run_iter(next(self.dataloader_iterator))
                self._evaluate_if_due(self._iter, self._max_iters)
        finally:
            self.dataloader_iterator._iterator.close()
        self.runner.call_hook('after_train_epoch')
