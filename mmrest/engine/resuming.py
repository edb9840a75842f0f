"""Resume with another schedule, learning rate or weight decay than the checkpoint's."""

import logging
import warnings
from typing import Any, Dict, List

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, Runner

from ..checkpoint import CheckpointError
from .compat import loaded_from

_PROGRESS = {
    'last_step',
    '_global_step',
    '_last_value',
    'verbose',
    'base_values',
    'num_bad_epochs',
}
"""Progress in the state of a scheduler; the rest are its settings."""

_KINDS = ('betas', 'momentum', 'rho', 'lr_decay', 'alpha')
"""Entries of a parameter group that distinguish optimizers."""

_HYPERPARAMETERS = (
    'initial_lr',
    'weight_decay',
    'betas',
    'momentum',
    'eps',
    'nesterov',
    'amsgrad',
    'dampening',
)


class ScheduleHook(Hook):
    """Makes a resumed run follow its config if that differs from the checkpoint.

    mmengine restores the schedule of the checkpoint: a longer run would continue at a learning
    rate of 0, and changed milestones, rates or decays would be silently ignored. Weights and the
    state of the optimizer are the checkpoint's. Changes are logged.
    """

    priority = 'VERY_LOW'  # after the weights were found to fit

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Replace the settings of optimizer and schedule in the checkpoint by the config's.

        Raises:
            CheckpointError: the optimizer differs, or its parameter groups do.
        """
        wrapper, saved = runner.optim_wrapper, checkpoint.get('optimizer')
        meta = checkpoint.get('meta') or {}
        self._say_what_is_left(runner, meta)
        if not isinstance(wrapper, OptimWrapper) or 'param_groups' not in (saved or {}):
            return
        source = loaded_from(runner)
        now = wrapper.state_dict()
        _check_same_kind(source, saved, now)
        changes = _differences(saved['param_groups'], now['param_groups'])
        schedulers = runner.param_schedulers
        if isinstance(schedulers, list):
            before = checkpoint.get('param_schedulers') or []
            asked = [_asked(scheduler.state_dict()) for scheduler in schedulers]
            if asked != [_asked(state) for state in before]:
                changes.append('the schedule')
            if any('initial_lr' in change or 'schedule' in change for change in changes):
                self._replay(runner, schedulers, meta)
                checkpoint['param_schedulers'] = [s.state_dict() for s in schedulers]
        if not changes:
            return
        now = wrapper.state_dict()
        for old, new in zip(saved['param_groups'], now['param_groups']):
            old.update({k: new[k] for k in ('lr', *_HYPERPARAMETERS) if k in new and k in old})
        if 'base_param_settings' in now:
            saved['base_param_settings'] = now['base_param_settings']
        rate = now['param_groups'][0]['lr']
        print_log(
            f'the config differs from {source}, and is followed: {"; ".join(changes)}; the '
            f'learning rate continues at {rate:.3g}, with the weights and optimizer state of the '
            'checkpoint',
            'current',
            logging.WARNING,
        )

    @staticmethod
    def _say_what_is_left(runner: Runner, meta: Dict[str, Any]) -> None:
        loop = runner.train_loop
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        done, whole = (meta.get('epoch' if by_epoch else 'iter', 0), runner.max_epochs)
        whole = whole if by_epoch else runner.max_iters
        if done >= whole:
            unit = 'epochs' if by_epoch else 'iterations'
            print_log(
                f'nothing to do: the checkpoint is at {done} of {whole} {unit}; to train longer, '
                f'set train_cfg.max_{unit if by_epoch else "iters"}',
                'current',
                logging.WARNING,
            )

    @staticmethod
    def _replay(runner: Runner, schedulers: List[Any], meta: Dict[str, Any]) -> None:
        """Step new schedulers to the iteration of the checkpoint."""
        if any(getattr(scheduler, 'need_val_args', False) for scheduler in schedulers):
            raise CheckpointError(
                'the schedule of the config differs from the checkpoint and needs evaluations; '
                'resume with the schedule of the checkpoint, or initialise from its weights: '
                '--cfg-options load_from=PATH'
            )
        done, epochs = meta.get('iter', 0), meta.get('epoch', 0)
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        each = done // epochs if by_epoch and epochs else len(runner.train_dataloader)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # the optimizer makes no steps here
            for iteration in range(1, done + 1):
                for scheduler in schedulers:
                    if not scheduler.by_epoch:
                        scheduler.step()
                if by_epoch and iteration % each == 0 and iteration // each <= epochs:
                    for scheduler in schedulers:
                        if scheduler.by_epoch:
                            scheduler.step()


def _asked(state: Dict[str, Any]) -> Dict[str, Any]:
    return {key: value for key, value in state.items() if key not in _PROGRESS}


def _check_same_kind(source: str, saved: Dict[str, Any], now: Dict[str, Any]) -> None:
    before, groups = saved['param_groups'], now['param_groups']
    remedy = (
        'resume with the config of the checkpoint, or initialise from its weights: '
        '--cfg-options load_from=PATH, without --resume'
    )
    kinds = [sorted(k for k in _KINDS if k in of[0]) for of in (before, groups) if of]
    if len(kinds) == 2 and kinds[0] != kinds[1]:
        raise CheckpointError(
            f'{source} contains the state of an optimizer with {", ".join(kinds[0])}, but the '
            f'config has one with {", ".join(kinds[1])}; {remedy}'
        )
    sizes = [[len(group['params']) for group in of] for of in (before, groups)]
    if sizes[0] != sizes[1]:
        raise CheckpointError(
            f'{source} contains the state of an optimizer with {len(before)} groups of '
            f'{sum(sizes[0])} parameters, but the config has {len(groups)} groups of '
            f'{sum(sizes[1])} (paramwise_cfg, frozen_stages or the network differ); {remedy}'
        )


def _differences(before: List[dict], now: List[dict]) -> List[str]:
    changes = {}
    for old, new in zip(before, now):
        for key in _HYPERPARAMETERS:
            if key in old and key in new and not _equal(old[key], new[key]):
                changes.setdefault(key, (old[key], new[key]))
    return [f'{key} {old} -> {new}' for key, (old, new) in changes.items()]


def _equal(old: Any, new: Any) -> bool:
    if isinstance(old, (list, tuple)):
        return list(old) == list(new)
    return old == new
