"""Report of optimizer and schedule; faults are in test_planted_faults.py."""

from contextlib import nullcontext

import pytest
from mmengine.config import Config

from mmrest.errors import UsageError
from mmrest.preflight import Report
from mmrest.preflight.optimization import check_schedule


@pytest.mark.parametrize('part, stops', [
    (dict(by_epoch=False, total_steps=300), False), (dict(by_epoch=False, total_steps=299), True),
    (dict(by_epoch=False, total_steps=200, end=200), False),
    (dict(by_epoch=False, total_steps=200, begin=100), False),
    (dict(by_epoch=False, total_steps=200, begin=99), True),
    (dict(total_steps=2, convert_to_iter_based=True), True), (dict(total_steps=3), False),
])  # fmt: skip
def test_schedules_that_stop_a_run(part, stops):
    cfg = dict(
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-4)),
        param_scheduler=[dict(type='OneCycleLR', **part)],
        train_cfg=dict(max_epochs=3),
        train_dataloader=dict(batch_size=2),
    )
    context = pytest.raises(UsageError, match='stops the run') if stops else nullcontext()
    with context:
        check_schedule(Config(cfg), 100, Report())


@pytest.mark.parametrize('end, warns', [(40, False), (500, True)])
def test_schedule(end, warns):
    cfg = dict(
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-4)),
        param_scheduler=[dict(type='LinearLR', begin=0, end=end, by_epoch=False)],
        auto_scale_lr=dict(base_batch_size=16),
        train_cfg=dict(max_epochs=3),
        train_dataloader=dict(batch_size=2),
    )
    report = Report()
    check_schedule(Config(cfg), 100, report)
    assert dict(report.facts) == {
        'iterations per epoch': '100',
        'length': '3 epochs',
        'batch': '2 x 1 process(es)',
        'optimizer': 'AdamW, lr 0.0001 (for a total batch size of 16)',
        'schedule': f'LinearLR 0 to {end} (iterations)',
    }
    assert bool(report.warnings) == warns
    assert not warns or 'takes 500 of the 300 iterations' in report.warnings[0]
