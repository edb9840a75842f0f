"""tools/demo.py from end to end, with small networks and few images."""

import re

import cv2
import pytest

from tests.runs import ROOT, run

LAST = """
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=2))
train_cfg = dict(max_iters=2, val_interval=2)
train_dataloader['batch_size'] = 2
"""
MODELS = {
    'maskrcnn_rmt_t': (
        'neck=dict(in_channels=dims[1:]), test_cfg=dict(rpn=few, rcnn=thr), '
        'train_cfg=dict(rpn_proposal=few, rcnn=dict(sampler=dict(num=16)))'
    ),
    'cascade_maskrcnn_rmt_t': 'neck=dict(in_channels=dims), test_cfg=dict(rcnn=thr)',
    'retinanet_rest_lite': 'neck=dict(in_channels=dims[1:]), test_cfg=thr',
    'semfpn_rest_lite': 'neck=dict(in_channels=dims)',
    'upernet_rmt_t': 'decode_head=dict(in_channels=dims), auxiliary_head=dict(in_channels=24)',
    'cls_rmt_t': 'neck=dict(in_channels=32)',
}


def small(name, model):
    of_others = name in ('cascade_maskrcnn_rmt_t', 'retinanet_rest_lite')  # no group norm
    norm = '' if of_others else ', norm_cfg=dict(num_groups=4)'
    return f"""
_base_ = '{ROOT}/configs/demo_{name}.py'
dims = [8, 16, 24, 32]
arch = dict(_delete_=True, dims=dims, depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4))
few = dict(max_per_img=20)
thr = dict(few, score_thr=0.0)
model = dict(backbone=dict(arch=arch{norm}), {model})
train_dataloader = dict(num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
"""


SMALL = {f'demo_{name}.py': small(name, model) for name, model in MODELS.items()}

DEMO = """
from mmrest.cli import demo
for name, (config, images) in demo.DEMOS.items():
    demo.DEMOS[name] = config, (*images[:2], 4, 4, 64, 80)  # numbers and size
demo.main()
"""

BOXES = ('box AP', 'box AP50')
MASKS = (*BOXES, 'mask AP', 'mask AP50')
LABEL_MAPS = ('aAcc', 'mIoU', 'mAcc')


def test_all_demos():
    others = {'demo_cls_rest_lite.py'}  # of tests/classification
    assert SMALL.keys() | others == {path.name for path in (ROOT / 'configs').glob('demo_*.py')}


@pytest.mark.parametrize('method, work_dir, metrics', [
    ('maskrcnn', 'demo', MASKS),
    pytest.param('cascade_maskrcnn', 'demo-cascade_maskrcnn', MASKS, marks=pytest.mark.slow),
    pytest.param('retinanet', 'demo-retinanet', BOXES, marks=pytest.mark.slow),
    ('semfpn', 'demo-semfpn', LABEL_MAPS),
    pytest.param('upernet', 'demo-upernet', LABEL_MAPS, marks=pytest.mark.slow),
    pytest.param('cls_rmt_t', 'demo-cls_rmt_t', ('accuracy/top1',), marks=pytest.mark.slow),
])  # fmt: skip
def test_demo(tmp_path, method, work_dir, metrics):
    if method == 'cls_rmt_t':
        pytest.importorskip('mmpretrain')
    for name, text in SMALL.items():
        (tmp_path / name).write_text(text + LAST)
    (tmp_path / 'small_demo.py').write_text(DEMO)
    done = run('small_demo.py', *[method] * (method != 'maskrcnn'), cwd=tmp_path)
    summary = done.stdout.partition('on 4 held-out images:')[2]
    rows = re.findall(r'^  (.+): ([\d.]+)$', summary, re.M)
    assert tuple(name for name, _ in rows) == metrics
    assert all(0 <= float(value) <= (1 if 'AP' in name else 100) for name, value in rows)
    work_dir = tmp_path / 'work_dirs' / work_dir
    for name in ('predictions.png', 'curves.png'):
        assert name in done.stdout
        assert cv2.imread(str(work_dir / name)).std() > 10
    assert (work_dir / 'iter_2.pth').is_file()
