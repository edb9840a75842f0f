"""Report of optimizer and schedule; faults are in test_planted_faults.py."""

import pytest
from mmengine.config import Config

from mmrest.preflight import Report
from mmrest.preflight.schedule import check_schedule


@pytest.mark.parametrize('end, warns', [(40, False), (500, True)])
def test_schedule(end, warns):
    cfg = dict(
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-4)),
        param_scheduler=[dict(type='LinearLR', begin=0, end=end, by_epoch=False)],
        train_cfg=dict(max_epochs=3),
        train_dataloader=dict(batch_size=2),
    )
    report = Report()
    check_schedule(Config(cfg), 100, report)
    assert dict(report.facts) == {
        'iterations per epoch': '100',
        'length': '3 epochs',
        'batch': '2 x 1 process',
        'optimizer': 'AdamW, lr 0.0001',
        'schedule': f'LinearLR 0 to {end} (iterations)',
    }
    assert bool(report.warnings) == warns
    assert not warns or 'takes 500 of the 300 iterations' in report.warnings[0]
