"""tools/demo.py with small classifiers and few images."""

import cv2
import pytest

from tests.classification.networks import ARCH
from tests.tools.runs import ROOT, run

CONFIG = """
_base_ = '{root}/configs/demo_{name}.py'
model = dict(backbone=dict(arch=dict(_delete_=True, **{arch})), {last}=dict(in_channels=32))
model['backbone']['norm_cfg'] = dict(_delete_=True, type='GN', num_groups=2)
train_cfg = dict(max_iters=2, val_interval=1)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=2))
"""

DEMO = f"""
import sys
from pathlib import Path
sys.path.insert(0, '{ROOT}/tools')
from mmrest.cli import demo
demo.CONFIGS = Path()
for name, kept in demo.DEMOS.items():
    demo.DEMOS[name] = kept._replace(images=kept.images._replace(train=6, val=6))
demo.main()
"""


@pytest.mark.parametrize('name, last', [('cls_rest_lite', 'head'), ('cls_rmt_t', 'neck')])
def test_demo(tmp_path, name, last):
    text = CONFIG.format(root=ROOT, name=name, arch=ARCH, last=last)
    (tmp_path / f'demo_{name}.py').write_text(text)
    (tmp_path / 'small_demo.py').write_text(DEMO)
    done = run('small_demo.py', name, cwd=tmp_path)
    assert 'on 6 held-out images' in done.stdout
    (row,) = [line.split('│') for line in done.stdout.splitlines() if '│ top-1' in line]
    assert 0 <= float(row[2]) <= 1
    work_dir = tmp_path / 'work_dirs' / f'demo-{name}'
    for picture in ('predictions.png', 'curves.png'):
        assert picture in done.stdout
        assert cv2.imread(str(work_dir / picture)).std() > 10
    assert (work_dir / 'iter_2.pth').is_file()
