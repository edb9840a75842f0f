"""mmrest from another project: custom_imports, and cost of the import."""

import importlib.metadata
import json
import math
from pathlib import Path

from tests.runs import run

BLOCKED = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        absent = ('mmdet', 'mmseg', 'mmpretrain', 'mmcv.ops', 'mmcv._ext', 'pycocotools')
        if name.startswith(absent):
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)

sys.meta_path.insert(0, Absent())
import torch, mmengine.runner
before = set(sys.modules)  # with torch 2.5, that of Triton
import mmrest
from mmengine.registry import MODELS
for name, arch in (('ResT', 'lite'), ('RMT', 't')):
    maps = MODELS.build(dict(type=name, arch=arch)).eval()(torch.zeros(1, 3, 32, 32))
    print(len(maps))
new = sys.modules.keys() - before
print(sorted({'mmdet', 'mmseg', 'mmpretrain', 'triton', 'flash_attn'} & new))
import mmrest.cli.infer, mmrest.cli.report  # of segmentors and classifiers
"""

SWAPPED = """
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py', 'mmdet::_base_/datasets/coco_detection.py',
    'mmdet::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmrest'], allow_failed_imports=False)
arch = dict(dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4))
model = dict(
    backbone=dict(_delete_=True, type='ResT', arch=arch, out_indices=(1, 2, 3)),
    neck=dict(in_channels=[16, 24, 32], start_level=0, out_channels=16),
    bbox_head=dict(in_channels=16, feat_channels=16, stacked_convs=1),
)
train_dataloader = dict(
    num_workers=0, persistent_workers=False, sampler=dict(type='InfiniteSampler'),
    dataset=dict(data_root='{root}', pipeline=[
        dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
        dict(type='Resize', scale=(80, 60), keep_ratio=True), dict(type='PackDetInputs'),
    ]),
)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-4))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2)
val_dataloader = val_evaluator = test_dataloader = test_evaluator = None
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(by_epoch=False))
"""


OPENED = """
from mmengine import Config
cfg = Config.fromfile('swapped.py')  # carries out custom_imports, which mmcv-lite needs first
from mmdet.apis import init_detector
model = init_detector(cfg, 'work_dirs/swapped/iter_2.pth', 'random', device='cpu')
print(type(model.backbone).__name__)
import mmdet.registry, mmseg.registry
for library in (mmdet, mmseg):
    for name, arch in (('ResT', 'lite'), ('RMT', 't')):
        backbone = library.registry.MODELS.build(dict(type=name, arch=arch))
        print(type(backbone).__module__, type(backbone).__name__)
"""


def test_mmdet_train_script(tmp_path, coco_root):
    (tmp_path / 'swapped.py').write_text(SWAPPED.replace('{root}', f'{coco_root}/'))
    mmdet = Path(importlib.metadata.distribution('mmdet').locate_file('mmdet'))
    run(mmdet / '.mim' / 'tools' / 'train.py', 'swapped.py', cwd=tmp_path, fresh=True)
    work_dir = tmp_path / 'work_dirs' / 'swapped'
    assert (work_dir / 'iter_2.pth').is_file()
    (scalars,) = work_dir.glob('*/vis_data/scalars.json')
    losses = [json.loads(line)['loss'] for line in scalars.open()]
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    # Where mmengine's own loader fails on a checkpoint of a run (mmengine#1655).
    (tmp_path / 'opened.py').write_text(OPENED)
    both = ['mmrest.models.rest ResT', 'mmrest.models.rmt RMT']
    printed = run('opened.py', cwd=tmp_path, fresh=True).stdout.splitlines()
    assert printed[-5:] == ['ResT', *both, *both]


def test_import_without_mmdet_mmseg_and_ops(tmp_path):
    (tmp_path / 'blocked.py').write_text(BLOCKED)
    done = run('blocked.py', cwd=tmp_path, fresh=True)
    assert done.stdout.splitlines()[-3:] == ['4', '4', '[]']


def test_installing_asks_for_nothing_that_asks_for_more():
    """So that pip changes neither torch nor mmcv, mmengine, mmdet or mmseg."""
    for name, expected in (('mmrest', ['safetensors', 'jinja2']), ('safetensors', [])):
        wanted = importlib.metadata.requires(name) or []
        assert [requirement for requirement in wanted if 'extra ==' not in requirement] == expected
