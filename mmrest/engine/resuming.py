"""Resume with a schedule, learning rate or weight decay that differs from the checkpoint."""

import warnings
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Dict, Iterator, List, Optional, Set

from mmengine.hooks import EMAHook, Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict, _ParamScheduler
from mmengine.runner import EpochBasedTrainLoop, Runner

from ..checkpoint import CheckpointError
from .compat import loaded_from

_PROGRESS = (
    'last_step', '_global_step', '_last_value', 'verbose', 'base_values', 'num_bad_epochs', 'best',
    'cooldown_counter',
)  # fmt: skip
"""Progress in the state of a scheduler; the rest are its settings."""

_KINDS = ('betas', 'momentum', 'rho', 'lr_decay', 'alpha', 'momentum_decay')
"""Entries of a parameter group that distinguish optimizers."""

_OPENMMLAB = {'mmengine', 'mmdet', 'mmseg', 'mmpretrain'}
"""Packages whose schedulers treat equal parameter groups equally."""

_HYPERPARAMETERS = {
    'alpha', 'amsgrad', 'betas', 'centered', 'dampening', 'decoupled_weight_decay', 'eps',
    'initial_lr', 'initial_momentum', 'lr', 'lr_decay', 'maximize', 'momentum', 'momentum_decay',
    'nesterov', 'rho', 'weight_decay',
}  # fmt: skip
"""Entries that are settings; some optimizers also keep a state in their groups."""


class ScheduleHook(Hook):
    """Hook that makes a resumed run follow its config if that differs from the checkpoint.

    mmengine restores the schedule of the checkpoint. A longer run would then continue at a
    learning rate of 0, and changed milestones, rates or decays would be silently ignored. Weights
    and optimizer state are loaded from the checkpoint. Changes are logged.
    """

    priority = 'VERY_LOW'  # after the weights are checked

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        for warning in follow_config(runner, checkpoint, loaded_from(runner)):
            runner.logger.warning(warning)


def progress_of(checkpoint: Dict[str, Any]) -> Dict[str, Any]:
    """Return the parts of a checkpoint that :func:`follow_config` needs, without tensors."""
    kept = {key: checkpoint[key] for key in ('meta', 'param_schedulers') if key in checkpoint}
    if 'ema_state_dict' in checkpoint:
        kept['ema_state_dict'] = {}
    return dict(kept, optimizer=dict(param_groups=_parameter_groups(checkpoint)))


def follow_config(runner: Runner, checkpoint: Dict[str, Any], source: str) -> List[str]:
    """Replace the settings of optimizer and schedule in a checkpoint with those of the config.

    If the settings of the schedulers of `runner` differ, they are stepped to the iteration of the
    checkpoint, which is named `source` in messages.

    Returns:
        Warnings: what differs, and if nothing is left to do.

    Raises:
        CheckpointError: the optimizer differs, or its parameter groups do.
    """
    notes = []
    wrapper, saved = runner.optim_wrapper, checkpoint.get('optimizer')
    meta = checkpoint.get('meta') or {}
    done, total, unit = meta.get('iter', 0), runner.max_iters, 'iter'
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        done, total, unit = meta.get('epoch', 0), runner.max_epochs, 'epoch'
    if done >= total:
        notes.append(
            f'nothing left to train: the checkpoint is at {done} of {total} {unit}s; to train '
            f'longer, set train_cfg.max_{unit}s'
        )
    if 'ema_state_dict' in checkpoint and not any(isinstance(h, EMAHook) for h in runner.hooks):
        notes.append(
            f'the run has no EMAHook, and continues from the averaged weights of {source}'
        )
    before = _parameter_groups(checkpoint)
    if isinstance(wrapper, OptimWrapperDict) or (before is None and hasattr(runner, 'strategy')):
        return notes  # a strategy may save it in another file
    check_same_optimizer(source, checkpoint, wrapper)
    if before is None:
        _replay(runner, checkpoint)
        notes.append(
            f'{source} has no state of the optimizer (save_optimizer=False, or it is a best '
            'checkpoint), which starts anew; the learning rate continues at '
            f'{wrapper.param_groups[0]["lr"]:.3g}'
        )
        return notes
    states = [scheduler.state_dict() for scheduler in runner.param_schedulers or ()]
    saved_states = checkpoint.get('param_schedulers') or []
    # A schedule sets these, so they differ from the config in any checkpoint.
    scheduled = {state['param_name'] for state in (*states, *saved_states)}
    scheduled |= {'betas'} if 'momentum' in scheduled else set()
    changes = _differences(before, wrapper.param_groups, _HYPERPARAMETERS - scheduled)
    if _settings(states) != _settings(saved_states):
        changes['schedule'] = 'the schedule, or the length of an epoch'
    if changes.keys() & {'initial_lr', 'initial_momentum', 'schedule'}:
        _replay(runner, checkpoint)
        scheduled = set()
    if not changes:
        return notes
    groups = [*before, *filter(None, [saved.get('base_param_settings')])]
    for old, new in zip(groups, wrapper.param_groups):
        old.update({key: new[key] for key in (_HYPERPARAMETERS - scheduled) & new.keys()})
    notes.append(
        f'the config differs from {source} and takes precedence: {"; ".join(changes.values())}; '
        f'the learning rate continues at {before[0]["lr"]:.3g}, with the weights and '
        'optimizer state of the checkpoint'
    )
    return notes


def _settings(states: List[dict]) -> List[dict]:
    return [{k: v for k, v in state.items() if k not in _PROGRESS} for state in states]


def _replay(runner: Runner, checkpoint: Dict[str, Any]) -> None:
    """Step new schedulers to the iteration of the checkpoint, and put their states into it."""
    schedulers, meta = runner.param_schedulers or [], checkpoint.get('meta') or {}
    if any(getattr(scheduler, 'need_val_args', False) for scheduler in schedulers):
        raise CheckpointError(
            'the schedule of the config differs from the checkpoint and needs evaluations; '
            'resume with the schedule of the checkpoint, or initialise from its weights: '
            '--cfg-options load_from=PATH'
        )
    by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
    done = meta.get('iter', 0)
    epochs = meta.get('epoch', 0) if by_epoch else 0
    epoch_length = len(runner.train_dataloader)
    if epochs and not epochs <= done / epoch_length <= epochs + 1:  # mmengine's, of another length
        epoch_length = done // epochs
    with warnings.catch_warnings(), _one_group_per_setting(schedulers):
        warnings.simplefilter('ignore')  # the optimizer takes no steps here
        for iteration in range(1, done + 1):
            ends_epoch = iteration % epoch_length == 0 and iteration // epoch_length <= epochs
            for scheduler in sorted(schedulers, key=lambda scheduler: scheduler.by_epoch):
                if ends_epoch or not scheduler.by_epoch:
                    scheduler.step()
    checkpoint['param_schedulers'] = [scheduler.state_dict() for scheduler in schedulers]


@contextmanager
def _one_group_per_setting(schedulers: List[_ParamScheduler]) -> Iterator[None]:
    """Let schedulers step one parameter group per setting, and then give the others its values.

    With ``paramwise_cfg``, each parameter has a group, and many have the same settings. A
    project's own schedulers may have a state per group, and step all.
    """
    if any(type(scheduler).__module__.split('.')[0] not in _OPENMMLAB for scheduler in schedulers):
        yield
        return
    groups = schedulers[0].optimizer.param_groups if schedulers else []
    settings = [repr({k: v for k, v in group.items() if k != 'params'}) for group in groups]
    stepped = dict(zip(settings, groups))
    originals = [(s, s.optimizer, s.base_values) for s in schedulers]
    for scheduler, optimizer, base_values in originals:
        few = dict(param_groups=[*stepped.values()], step=optimizer.step, _global_step=1)
        scheduler.optimizer = SimpleNamespace(**few)
        scheduler.base_values = [*dict(zip(settings, base_values)).values()]
    yield
    for group, setting in zip(groups, settings):
        group.update({k: v for k, v in stepped[setting].items() if k != 'params'})
    for scheduler, optimizer, base_values in originals:
        last = dict(zip(stepped, scheduler._last_value))
        scheduler.optimizer, scheduler.base_values = optimizer, base_values
        scheduler._last_value = [last[setting] for setting in settings]


def _parameter_groups(checkpoint: Dict[str, Any]) -> Optional[List[dict]]:
    """Return the parameter groups of the optimizer in a checkpoint, if it has one."""
    saved = checkpoint.get('optimizer')
    return saved.get('param_groups') if isinstance(saved, dict) else None


def check_same_optimizer(source: str, checkpoint: Dict[str, Any], wrapper: OptimWrapper) -> None:
    """Raise CheckpointError if a checkpoint has the state of another optimizer or other groups.

    The checkpoint, named `source` in messages, may be from :func:`progress_of`, and have no
    optimizer. Several optimizers are not compared.
    """
    before = _parameter_groups(checkpoint)
    if before is None or isinstance(wrapper, OptimWrapperDict):
        return
    now = wrapper.state_dict()['param_groups']
    remedy = (
        'resume with the config of the checkpoint, or initialise from its weights: '
        '--cfg-options load_from=PATH, without --resume'
    )
    kinds = [sorted(k for k in _KINDS if k in of[0]) for of in (before, now) if of]
    for kind in kinds:
        if 'betas' in kind and 'momentum' in kind:  # the latter from a schedule of the first beta
            kind.remove('momentum')
    if len(kinds) == 2 and now[0].get('amsgrad') and not before[0].get('amsgrad'):
        kinds[1].append('amsgrad')  # which has a state of its own
    if len(kinds) == 2 and kinds[0] != kinds[1]:
        raise CheckpointError(
            f'{source} contains the state of an optimizer with {", ".join(kinds[0])}, but the '
            f'config has one with {", ".join(kinds[1])}; {remedy}'
        )
    sizes = [[len(group['params']) for group in of] for of in (before, now)]
    if sizes[0] != sizes[1]:
        raise CheckpointError(
            f'{source} contains the state of an optimizer with {len(before)} groups of '
            f'{sum(sizes[0])} parameters, but the config has {len(now)} groups of '
            f'{sum(sizes[1])} (paramwise_cfg, frozen_stages or the network differ); {remedy}'
        )


def _differences(before: List[dict], now: List[dict], keys: Set[str]) -> Dict[str, str]:
    """Return hyperparameter -> change as text, from the first group in which it changed."""
    changes = {}
    for old, new in zip(before, now):
        for key in sorted(keys & old.keys() & new.keys()):
            # A checkpoint may contain a list instead of a tuple.
            pair = [list(v) if isinstance(v, tuple) else v for v in (old[key], new[key])]
            if pair[0] != pair[1]:
                changes.setdefault(key, f'{key} {old[key]} -> {new[key]}')
    return changes
