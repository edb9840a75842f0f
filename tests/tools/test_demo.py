"""tools/demo.py from end to end, with a small network and few images."""

import cv2

from tests.tools.runs import ROOT, run

TINY = f"""
_base_ = '{ROOT}/configs/demo_maskrcnn_rmt_t.py'
arch = dict(_delete_=True, dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4))
model = dict(backbone=dict(arch=arch), neck=dict(in_channels=[8, 16, 24, 32]))
train_dataloader = dict(num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
max_epochs = 1
train_cfg = dict(max_epochs=1, val_interval=1)
model['test_cfg'] = dict(rcnn=dict(score_thr=0.0))
default_hooks = dict(logger=dict(interval=1))
"""

DEMO = f"""
import sys
from pathlib import Path
sys.path.insert(0, '{ROOT}/tools')
import demo
demo.CONFIG, demo.COUNTS = Path('tiny.py'), dict(train=4, val=4)
demo.main()
"""


def test_demo(tmp_path):
    (tmp_path / 'tiny.py').write_text(TINY)
    (tmp_path / 'small_demo.py').write_text(DEMO)
    done = run('small_demo.py', cwd=tmp_path)
    assert 'on 4 held-out images' in done.stdout and 'mask AP50' in done.stdout
    work_dir = tmp_path / 'work_dirs' / 'demo'
    for name in ('predictions.png', 'curves.png'):
        assert name in done.stdout
        assert cv2.imread(str(work_dir / name)).std() > 10
    assert (work_dir / 'epoch_1.pth').is_file()
