"""Training loops that resume at the exact batch, even in the middle of an epoch.

Otherwise they behave like mmengine's loops. A resumed run ends with the same weights as an
uninterrupted one, bit for bit if all ops are deterministic.
"""

import itertools
from contextlib import closing
from typing import Any, Dict, Iterator, List, Optional

import torch
from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.hooks import EarlyStoppingHook, EMAHook
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from mmengine.utils import digit_version
from torch import nn
from torch.utils.data import DataLoader

from ..errors import Interrupted, UsageError
from .checkpoint_hooks import AtomicCheckpointHook
from .compat import close_loaders
from .data_loading import ResumableLoader, kept_random_states, random_states, set_random_states
from .display import say
from .signals import StopRequest


class _Resumable:
    """Mixin that makes mmengine's loops resumable."""

    evaluated = True  # False if an evaluation due at this iteration is not done
    _resumed: Optional[Dict[str, Any]] = None
    _before_evaluation: Optional[Dict[str, Any]] = None

    @property
    def dataloader(self) -> ResumableLoader:
        """A copy of the loader that mmengine's loop builds and sets."""
        return self._dataloader

    @dataloader.setter
    def dataloader(self, loader: DataLoader) -> None:
        self._dataloader = ResumableLoader(loader, self.runner.seed)

    def remembered(self) -> Dict[str, Any]:
        """Return the state of the loop on this rank, for a checkpoint."""
        stopping = self._hooks(EarlyStoppingHook)
        return dict(
            batches=len(self.dataloader),
            seeds=self.dataloader.seeds,
            evaluated=self.evaluated,
            patience=[(hook.wait_count, hook.best_score) for hook in stopping],
            random_states=self._before_evaluation or random_states(),
        )

    def recall(self, remembered: Dict[str, Any], meta: Dict[str, Any]) -> None:
        """Resume from a state of :meth:`remembered`; may correct the `meta` of its checkpoint."""
        self._resumed, self.evaluated = remembered, remembered['evaluated']
        for hook, patience in zip(self._hooks(EarlyStoppingHook), remembered['patience']):
            hook.wait_count, hook.best_score = patience
        before, now = remembered['batches'], len(self.dataloader)
        if before != now:
            self.runner.logger.warning(
                f'the dataloader length changed from {before} to {now} batches: the resumed run '
                'will not be bit-exact'
            )

    def _hooks(self, kind: type) -> List[Any]:
        return [hook for hook in self.runner.hooks if isinstance(hook, kind)]

    def run(self) -> nn.Module:
        """Train, with evaluations.

        Raises:
            Interrupted: the process was asked to stop by SIGTERM.
            KeyboardInterrupt: it was asked to stop by Ctrl-C.
        """
        with StopRequest() as self._stop:
            self.runner.call_hook('before_train')
            check_compile(self.runner.cfg)
            if self.runner.cfg.get('compile'):
                _make_groups_traceable(self.runner)
            self._restore()
            try:
                self._run()
            finally:
                close_loaders(self.runner)
            self.runner.call_hook('after_train')
        return self.runner.model

    def run_iter(self, *args: Any) -> None:
        self.evaluated = False  # before a checkpoint hook saves it
        super().run_iter(*args)
        if self._stop.asked():
            self._interrupt()

    def _interrupt(self) -> None:
        """Save a checkpoint, and end the process as the signal would end it."""
        message = f'stopped by {self._stop.name} after iteration {self._iter}'
        for hook in self._hooks(AtomicCheckpointHook):
            path = hook.save_now(self.runner, self._epoch, self._iter)
            message += f'; saved {path}: run it with --resume to continue'
        self.runner.logger.info(message)
        raise KeyboardInterrupt(message) if self._stop.name == 'Ctrl-C' else Interrupted(message)

    def stop_evaluation(self) -> None:
        """Raise Interrupted if a run of one process was asked to stop."""
        if get_world_size() == 1 and self._stop.asked():
            raise Interrupted(f'stopped by {self._stop.name}')

    def _restore(self) -> None:
        if self._resumed is not None:
            self.dataloader.seeds = self._resumed['seeds']
            if self._resumed['random_states'] is not None:
                set_random_states(self._resumed['random_states'])

    def _begin_at(self, epoch: int, batch: int) -> None:
        self.dataloader.batch_sampler.epoch, self.dataloader.batch_sampler.skip = epoch, batch
        if batch:
            say(f'resuming the dataloader at batch {batch}')

    def evaluate_if_due(self, done: int, end: int) -> None:
        """Evaluate if it is time, after `done` of `end` epochs or iterations."""
        self._decide_current_val_interval()
        if self.runner.val_loop is None or done < self.val_begin:
            return
        if done % self.val_interval and done != end:
            return
        if self._stop.asked(at_once=True):
            self._interrupt()
        with kept_random_states() as self._before_evaluation:
            try:
                self.runner.val_loop.run()
            except Interrupted:  # after a batch: see stop_evaluation
                for hook in self._hooks(EMAHook):
                    hook.after_val_epoch(self.runner)  # restores the training weights
                self._interrupt()
            finally:
                self._before_evaluation = None
        self.evaluated = True


@LOOPS.register_module()
class ResumableEpochLoop(_Resumable, EpochBasedTrainLoop):
    """EpochBasedTrainLoop that resumes at the next batch.

    If the epochs have another length, such as with more processes, it counts iterations of this
    length and resumes after the same fraction of the epoch.
    """

    _done = 0  # batches of this epoch

    def remembered(self) -> Dict[str, Any]:
        return dict(super().remembered(), done=self._done)

    def recall(self, remembered: Dict[str, Any], meta: Dict[str, Any]) -> None:
        super().recall(remembered, meta)
        before, now = remembered['batches'], len(self.dataloader)
        if 'done' not in remembered:  # of a run that counts iterations
            meta['epoch'], remembered['done'] = divmod(meta['iter'], before)
        done = remembered['done']
        # A started epoch is not rounded down to its beginning: the evaluation before it would run
        # again.
        meta['iter'] = meta['epoch'] * now + max(done * now // before, min(done, 1))

    def _run(self) -> None:
        if self._resumed is None:  # as mmengine, which resumes with a new epoch
            self._iter = self._epoch * len(self.dataloader)
        done = self._iter - self._epoch * len(self.dataloader)
        if done == 0 and not self.evaluated:
            say('running the evaluation after this checkpoint')
            self.evaluate_if_due(self._epoch, self._max_epochs)
        while self._epoch < self._max_epochs and not self.stop_training:
            self._run_epoch(done)
            done, self._resumed = 0, None
            self.evaluate_if_due(self._epoch, self._max_epochs)

    def _run_epoch(self, done: int) -> None:
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        self._restore()  # again, because hooks may use random numbers
        self._begin_at(self._epoch, done)
        with closing(iter(self.dataloader)) as batches:
            for index, batch in enumerate(batches, start=done):
                self._done = index + 1
                self.run_iter(index, batch)
        self._done = 0
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1


@LOOPS.register_module()
class ResumableIterLoop(_Resumable, IterBasedTrainLoop):
    """IterBasedTrainLoop that resumes at the next batch."""

    def _run(self) -> None:
        self.runner.call_hook('before_train_epoch')
        if not self.evaluated:
            self.evaluate_if_due(self._iter, self._max_iters)
        epoch, done = 0, self._iter
        if not self.dataloader.batch_sampler.is_endless:
            epoch, done = divmod(self._iter, len(self.dataloader))
        self._restore()
        self._begin_at(epoch, done)
        # In place of mmengine's, which sleeps between epochs.
        with closing(self._batches(epoch)) as self.dataloader_iterator:
            while self._iter < self._max_iters and not self.stop_training:
                self.runner.model.train()
                self.run_iter(next(self.dataloader_iterator))
                self.evaluate_if_due(self._iter, self._max_iters)
        self.runner.call_hook('after_train_epoch')

    def _batches(self, first: int) -> Iterator[Any]:
        """Yield the batches of the first epoch and all later ones."""
        sampler = self.dataloader.batch_sampler.sampler
        for epoch in itertools.count(first):
            self.dataloader.batch_sampler.epoch = epoch
            if hasattr(sampler, 'set_epoch'):
                sampler.set_epoch(epoch)
            yield from self.dataloader


def check_compile(cfg: Config) -> None:
    """Raise UsageError if a run compiles its network and torch is too old to do so correctly."""
    if cfg.get('compile') and digit_version(torch.__version__) < digit_version('2.7'):
        raise UsageError(
            f'compile needs torch 2.7 or later, this is {torch.__version__}; remove compile'
        )


def _make_groups_traceable(run: Runner) -> None:
    """Turn mmengine's parameter groups, ConfigDicts, into dicts, which torch.compile can trace."""
    for wrapper in getattr(run.optim_wrapper, 'optim_wrappers', {0: run.optim_wrapper}).values():
        wrapper.optimizer.param_groups[:] = map(dict, wrapper.optimizer.param_groups)
