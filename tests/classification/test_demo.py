"""tools/demo.py with a small classifier and few images."""

import cv2
import pytest

from tests.classification.networks import ARCH
from tests.cli.test_demo import DEMO
from tests.runs import ROOT, run

CONFIG = f"""
_base_ = '{ROOT}/configs/demo_cls_rmt_t.py'
model = dict(backbone=dict(arch=dict(_delete_=True, **{ARCH})), neck=dict(in_channels=32))
model['backbone']['norm_cfg'] = dict(_delete_=True, type='GN', num_groups=2)
train_cfg = dict(max_iters=2, val_interval=1)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=2))
"""


@pytest.mark.slow
def test_demo(tmp_path):
    (tmp_path / 'demo_cls_rmt_t.py').write_text(CONFIG)
    (tmp_path / 'small_demo.py').write_text(DEMO)
    done = run('small_demo.py', 'cls_rmt_t', cwd=tmp_path)
    assert 'on 4 held-out images' in done.stdout
    (row,) = [line.split('│') for line in done.stdout.splitlines() if '│ top-1' in line]
    assert 0 <= float(row[2]) <= 1
    work_dir = tmp_path / 'work_dirs' / 'demo-cls_rmt_t'
    for image in ('predictions.png', 'curves.png'):
        assert image in done.stdout
        assert cv2.imread(str(work_dir / image)).std() > 10
    assert (work_dir / 'iter_2.pth').is_file()
