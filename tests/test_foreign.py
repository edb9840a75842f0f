"""mmrest from another project: custom_imports, and cost of the import."""

import importlib.metadata
import json
import math
from pathlib import Path

from tests.runs import ROOT, run

BLOCKED = """
import sys
for name in ('mmdet', 'mmseg', 'mmpretrain', 'mmcv.ops', 'mmcv._ext', 'pycocotools'):
    sys.modules[name] = None  # its import fails
import torch, mmengine.runner
before = set(sys.modules)  # with torch 2.5, that of Triton
import mmrest
from mmengine.registry import MODELS
for name, arch in (('ResT', 'lite'), ('RMT', 't')):
    maps = MODELS.build(dict(type=name, arch=arch)).eval()(torch.zeros(1, 3, 32, 32))
    print(len(maps))
new = sys.modules.keys() - before
print(sorted({'triton', 'flash_attn'} & new))
import mmrest.cli.infer, mmrest.cli.report  # of segmentors and classifiers
"""

SWAPPED = f"""
_base_ = '{ROOT}/configs/swapped/atss_rmt_s.py'
arch = dict(_delete_=True, dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4))
model = dict(
    backbone=dict(arch=arch, norm_cfg=dict(type='BN')),
    neck=dict(in_channels=[16, 24, 32]),
    bbox_head=dict(stacked_convs=1),
)
train_dataloader = dict(num_workers=0, persistent_workers=False)
train_cfg = dict(max_epochs=1)
val_dataloader = val_cfg = val_evaluator = None
test_dataloader = test_cfg = test_evaluator = None
default_hooks = dict(logger=dict(interval=1))
"""


OPENED = """
from mmengine import Config
cfg = Config.fromfile('swapped.py')  # carries out custom_imports, which mmcv-lite needs first
from mmdet.apis import init_detector
model = init_detector(cfg, 'work_dirs/swapped/epoch_1.pth', 'random', device='cpu')
print(type(model.backbone).__name__)
import mmdet.registry, mmseg.registry
for library in (mmdet, mmseg):
    for name, arch in (('ResT', 'lite'), ('RMT', 't')):
        backbone = library.registry.MODELS.build(dict(type=name, arch=arch))
        print(type(backbone).__module__, type(backbone).__name__)
"""


def test_mmdet_train_script(tmp_path, coco_root):
    (tmp_path / 'swapped.py').write_text(SWAPPED)
    mmdet = Path(importlib.metadata.distribution('mmdet').locate_file('mmdet'))
    dataset = 'train_dataloader.dataset'
    options = (f'{dataset}.data_root={coco_root}', f'{dataset}.pipeline.2.scale=(80,60)')
    script = mmdet / '.mim' / 'tools' / 'train.py'
    run(script, 'swapped.py', '--cfg-options', *options, cwd=tmp_path, fresh=True)
    work_dir = tmp_path / 'work_dirs' / 'swapped'
    assert (work_dir / 'epoch_1.pth').is_file()
    (scalars,) = work_dir.glob('*/vis_data/scalars.json')
    losses = [json.loads(line)['loss'] for line in scalars.open()]
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    # Where mmengine's own loader fails on a checkpoint of a run (mmengine#1655).
    (tmp_path / 'opened.py').write_text(OPENED)
    both = ['mmrest.models.rest ResT', 'mmrest.models.rmt RMT']
    printed = run('opened.py', cwd=tmp_path, fresh=True).stdout.splitlines()
    assert printed[-5:] == ['RMT', *both, *both]


def test_import_without_mmdet_mmseg_and_ops(tmp_path):
    (tmp_path / 'blocked.py').write_text(BLOCKED)
    done = run('blocked.py', cwd=tmp_path, fresh=True)
    assert done.stdout.splitlines()[-3:] == ['4', '4', '[]']


def test_installing_asks_for_nothing_that_asks_for_more():
    """So that pip changes neither torch nor mmcv, mmengine, mmdet or mmseg."""
    for name, expected in (('mmrest', ['safetensors', 'jinja2']), ('safetensors', [])):
        wanted = importlib.metadata.requires(name) or []
        assert [requirement for requirement in wanted if 'extra ==' not in requirement] == expected
