"""Iterations of an epoch and length of a run."""

import pytest
from mmengine.config import Config

from mmrest.engine.checks.plan import plan, schedule

DATA = dict(type='CocoDataset')


@pytest.mark.parametrize(
    'dataset, counts, iterations',
    [
        (DATA, {'': 9}, 5),
        (dict(type='RepeatDataset', times=3, dataset=DATA), {'.dataset': 9}, 14),
        (
            dict(type='ConcatDataset', datasets=[DATA, DATA]),
            {'.datasets.0': 9, '.datasets.1': 2},
            6,
        ),
        (dict(type='ClassBalancedDataset', dataset=DATA), {'.dataset': 9}, None),
        (DATA, {}, None),
    ],
)
def test_iterations(dataset, counts, iterations):
    loader = dict(batch_size=2, dataset=dataset)
    cfg = Config(dict(train_dataloader=loader, train_cfg=dict(max_epochs=3)))
    counts = {f'train_dataloader.dataset{key}': count for key, count in counts.items()}
    found = plan(cfg, counts)
    assert found == (2, 1, iterations, 3, True)
    cfg.train_dataloader.drop_last = True
    if counts and iterations == 5:
        assert plan(cfg, counts).iterations == 4


def test_processes(monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '4')
    loader = dict(batch_size=2, dataset=DATA)
    cfg = Config(dict(train_dataloader=loader, train_cfg=dict(max_iters=30), launcher='pytorch'))
    assert plan(cfg, {'train_dataloader.dataset': 9}) == (2, 4, 2, 30, False)


def test_schedule():
    cfg = Config(
        dict(
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-4)),
            param_scheduler=[dict(type='LinearLR', begin=0, end=500, by_epoch=False)],
            auto_scale_lr=dict(base_batch_size=16),
            train_cfg=dict(max_iters=80000),
        )
    )
    found = dict(schedule(cfg, plan(cfg, {})))
    assert found['length'] == '80,000 iterations'
    assert found['optimizer'] == 'AdamW, lr 0.0001 (meant for a total batch of 16)'
    assert found['schedule'] == 'LinearLR 0 to 500 (iterations)'
