"""Resumed runs follow the schedule, LR and weight decay of their config."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import CosineAnnealingMomentum, LinearLR, OptimWrapper, PolyLR

from mmrest.checkpoint import CheckpointError
from mmrest.engine.building import build_runner
from mmrest.engine.resuming import (
    ScheduleHook,
    check_same_optimizer,
    follow_config,
    progress_of,
)
from tests.engine.toy import EPOCHS, config

COSINE = dict(type='CosineAnnealingLR', by_epoch=False, T_max=16)
LONGER = dict(type='CosineAnnealingLR', by_epoch=False, T_max=32)
STEPS = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=3),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=8, milestones=[1, 3]),
]
MOMENTUM = dict(type='CosineAnnealingMomentum', by_epoch=False, T_max=16)
SGD = dict(_delete_=True, type='SGD', lr=0.1, momentum=0.9)

# Its LR at the end of an epoch is neither that of the start nor of the config.
WARM_UP = [dict(STEPS[0], start_factor=0.001), STEPS[1]]


def run(folder, epochs=4, schedule=(COSINE,), resume=None, optimizer=(), **options):
    """Return the learning rates of a run, by iteration, and its runner."""
    cfg = config(
        folder,
        checkpoint=dict(EPOCHS),
        train_cfg=dict(max_epochs=epochs),
        param_scheduler=[dict(part) for part in schedule],
        optim_wrapper=dict(optimizer=dict(optimizer)),
        load_from=resume,
        resume=resume is not None,
        **options,
    )
    runner, rates = build_runner(cfg), {}
    runner.register_hook(ScheduleHook())
    step = runner.train_loop.run_iter

    def counted(*args):
        rates[runner.iter] = runner.optim_wrapper.param_groups[0]['lr']
        step(*args)

    runner.train_loop.run_iter = counted
    runner.train()
    return rates, runner


def log_of(runner, folder):
    return next(folder.rglob(f'{runner.timestamp}.log')).read_text()


TWO = (dict(COSINE, end=16), dict(MOMENTUM, end=16))
CHANGES = {
    'longer': ((COSINE,), (LONGER,), {}, {}, True),
    'longer with another LR': (
        (COSINE,), (LONGER,), {}, dict(lr=3e-2, weight_decay=0.5), True),
    'other': ((COSINE,), STEPS, {}, {}, True),
    'fewer': (STEPS, (LONGER,), {}, {}, True),
    'same': (STEPS, STEPS, {}, {}, False),
    'another weight decay': (WARM_UP, WARM_UP, {}, dict(weight_decay=0.5), True),
    'none': ((), (), {}, dict(lr=3e-2), True),
    'same, with momentum': (TWO, TWO, SGD, {}, False),
    'only of momentum': ((MOMENTUM,), (MOMENTUM,), SGD, dict(lr=0.01), True),
}  # fmt: skip
"""Schedule of a run and of its resumption, optimizer, changes of it, and if there is a warning."""

GROUPS = {'optim_wrapper.paramwise_cfg': dict(custom_keys={'net.0': dict(lr_mult=2.0)})}


@pytest.mark.parametrize('change', CHANGES)
def test_changed_schedule(tmp_path, change):
    """After the checkpoint, rates equal those of a run with the new schedule from its start."""
    before, after, kind, changed, warned = CHANGES[change]
    optimizer = {**kind, **changed}
    run(tmp_path / 'a', 2, before, None, kind, **GROUPS)
    path = str(tmp_path / 'a' / 'epoch_2.pth')
    rates, runner = run(tmp_path / 'a', 4, after, path, optimizer, **GROUPS)
    expected, fresh = run(tmp_path / 'b', 4, after, None, optimizer, **GROUPS)
    assert len(rates) == len(expected) // 2 > 0 and max(rates.values()) > 0
    assert rates == pytest.approx({i: expected[i] for i in rates}, rel=1e-9)
    ours, theirs = runner.optim_wrapper, fresh.optim_wrapper
    assert ours.get_lr() == {n: pytest.approx(lrs) for n, lrs in theirs.get_lr().items()}
    assert ours.get_momentum() == theirs.get_momentum()
    for group, like in zip(ours.param_groups, theirs.param_groups):
        assert group['weight_decay'] == like['weight_decay']
    log = log_of(runner, tmp_path / 'a')
    assert ('the config differs from' in log) is warned
    if 'lr' in changed:  # which is twice as high in the first group
        assert f'lr {2 * kind.get("lr", 0.01)} -> {2 * changed["lr"]}' in log


def test_changed_schedule_within_an_epoch(tmp_path):
    """Schedules by iteration and by epoch take turns as in the run."""
    by_iteration = {'default_hooks.checkpoint.by_epoch': False}
    slow = dict(STEPS[0], end=16)
    cosines = [dict(type='CosineAnnealingLR', T_max=4, eta_min=eta_min) for eta_min in (0, 5e-3)]
    run(tmp_path / 'a', 4, (slow, cosines[0]), **by_iteration)
    path = str(tmp_path / 'a' / 'iter_6.pth')
    rates, _ = run(tmp_path / 'a', 4, (slow, cosines[1]), path)
    expected, _ = run(tmp_path / 'b', 4, (slow, cosines[1]))
    assert rates == pytest.approx({i: expected[i] for i in range(6, 16)}, rel=1e-9)


def test_added_schedule(tmp_path):
    """A run that has resumed with another schedule can resume again, with another LR."""
    schedule = [COSINE, MOMENTUM]
    paths = [str(tmp_path / f'epoch_{epoch}.pth') for epoch in range(5)]
    run(tmp_path, 2, (), None, SGD)
    _, second = run(tmp_path, 4, schedule, paths[2], SGD)
    _, same = run(tmp_path / 'a', 4, schedule, paths[3], SGD)
    assert same.optim_wrapper.get_momentum() == second.optim_wrapper.get_momentum()
    assert 'the config differs from' not in log_of(same, tmp_path / 'a')
    rates, _ = run(tmp_path, 4, schedule, paths[3], dict(SGD, lr=0.5))
    expected, _ = run(tmp_path / 'b', 4, schedule, None, dict(SGD, lr=0.5))
    assert rates == pytest.approx({i: expected[i] for i in range(12, 16)}, rel=1e-9)


def test_momentum_schedule_of_adam(tmp_path):
    """It adds a momentum to the groups of the checkpoint."""
    _, runner = run(tmp_path, 2, TWO)
    saved = progress_of(torch.load(tmp_path / 'epoch_2.pth', weights_only=False))
    parameters = torch.optim.AdamW(runner.model.parameters())
    check_same_optimizer('x', saved, OptimWrapper(parameters))


class OwnPolyLR(PolyLR):
    """A scheduler of a project, with other values for each group."""

    def _get_value(self):
        return [value / (1 + n) for n, value in enumerate(super()._get_value())]


@pytest.mark.parametrize('kind', [PolyLR, OwnPolyLR])
def test_groups_of_several_settings(kind):
    """Each ends where single steps lead."""
    states = []
    for is_replay in (False, True):
        groups = [dict(params=[torch.zeros(1)], lr=lr) for lr in (0.1, 0.2, 0.1, 0.3, 0.2)]
        wrapper = OptimWrapper(torch.optim.SGD(groups, lr=0.4, momentum=0.9))
        schedulers = [
            LinearLR(wrapper, start_factor=0.01, by_epoch=False, end=30),
            kind(wrapper, eta_min=1e-3, by_epoch=False, begin=30, end=100),
            CosineAnnealingMomentum(wrapper, by_epoch=False, T_max=20),
        ]
        for _ in range(70 * (not is_replay)):
            for scheduler in schedulers:
                scheduler.step()
        if is_replay:
            runner = SimpleNamespace(
                optim_wrapper=wrapper, param_schedulers=schedulers, hooks=[], max_iters=100,
                train_loop=None, train_dataloader=range(10),
            )  # fmt: skip
            follow_config(runner, dict(meta=dict(iter=70)), 'a.pth')
        assert all(scheduler.optimizer is wrapper for scheduler in schedulers)
        states.append(([each.state_dict() for each in schedulers], wrapper.param_groups))
    assert states[0] == states[1]


def test_epochs_of_a_run_of_mmengine(tmp_path):
    """Its checkpoint does not say how long they were."""
    by_epoch = [dict(type='MultiStepLR', by_epoch=True, milestones=[2, 3])]
    run(tmp_path, 2, by_epoch, **{'train_dataloader.batch_size': 6})
    path = str(tmp_path / 'epoch_2.pth')
    content = torch.load(path, weights_only=False)
    torch.save({k: v for k, v in content.items() if k != 'mmrest'}, path)
    rates, _ = run(tmp_path, 4, by_epoch, path, dict(lr=0.1))
    assert list(rates.values()) == pytest.approx([0.01] * 4 + [0.001] * 4)


def test_no_state_of_the_optimizer(tmp_path):
    """The learning rate goes on, also that of a schedule of factors."""
    expected, _ = run(tmp_path / 'a', 4, STEPS)
    hook = {'default_hooks.checkpoint.save_optimizer': False}
    folder = tmp_path / 'b'  # logs of the same second have one name
    run(folder, 2, STEPS, **hook)
    rates, runner = run(folder, 4, STEPS, str(folder / 'epoch_2.pth'), **hook)
    assert rates == pytest.approx({i: expected[i] for i in range(8, 16)}, rel=1e-9)
    assert 'has no state of the optimizer' in log_of(runner, folder)


def test_nothing_left_to_train(tmp_path):
    run(tmp_path)
    rates, runner = run(tmp_path, 4, resume=str(tmp_path / 'epoch_4.pth'))
    assert not rates
    log = log_of(runner, tmp_path)
    assert 'nothing left to train' in log and '4 of 4 epochs' in log


def test_another_optimizer(tmp_path):
    run(tmp_path, 1)
    path = str(tmp_path / 'epoch_1.pth')
    with pytest.raises(CheckpointError, match=r'with betas, but the config has .* momentum'):
        run(tmp_path, 2, resume=path, optimizer=dict(type='SGD', lr=0.1, momentum=0.9))
    content = torch.load(path, weights_only=False)
    if 'decoupled_weight_decay' in content['optimizer']['param_groups'][0]:  # AdamW is Adam
        _, runner = run(tmp_path, 2, resume=path, optimizer=dict(type='Adam'))
        assert 'decoupled_weight_decay True -> False' in log_of(runner, tmp_path)
    torch.save({**content, 'ema_state_dict': {}}, path)
    _, runner = run(tmp_path, 2, resume=path)
    assert 'the run has no EMAHook, and continues from the averaged' in log_of(runner, tmp_path)
    first = content['optimizer']['param_groups'][0]
    content['optimizer']['param_groups'].append(dict(first, params=[]))
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r'groups of .*paramwise_cfg, frozen_stages or the'):
        run(tmp_path, 2, resume=path)
