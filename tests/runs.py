"""Small runs of the scripts in tools/, as a user starts them."""

import os
import runpy
import shutil
import subprocess
import sys
from functools import partial
from itertools import chain
from pathlib import Path

import mmdet.registry
import torch
from mmengine.registry import MODELS, DefaultScope, Registry

from mmrest.engine.config import load_config
from tests.drawn import CLASSES
from tests.forks import warm_folder

ROOT = Path(__file__).resolve().parents[1]

# Our own config with everything small: what the parts of configs/ define, on drawn pictures.
DETECTOR = f"""
_base_ = '{ROOT}/configs/maskrcnn_rmt_s_3x.py'
arch = dict(_delete_=True, dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4))
model = dict(
    backbone=dict(arch=arch),
    neck=dict(in_channels=[8, 16, 24, 32], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=16, num_classes=3),
        mask_roi_extractor=dict(out_channels=16),
        mask_head=dict(in_channels=16, conv_out_channels=16, num_convs=1, num_classes=3),
    ),
    test_cfg=dict(rcnn=dict(score_thr=0.0, max_per_img=20)),
)
metainfo = dict(classes={CLASSES})
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(80, 60), keep_ratio=True), dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='Resize', scale=(80, 60), keep_ratio=True),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(
    num_workers=0, persistent_workers=False,
    dataset=dict(pipeline=train_pipeline, metainfo=metainfo),
)
val_dataloader = dict(
    num_workers=0, persistent_workers=False,
    dataset=dict(pipeline=test_pipeline, metainfo=metainfo),
)
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=1)
default_hooks = dict(logger=dict(interval=1))
"""

# Boxes alone, which can be augmented.
RETINANET = f"""
_base_ = '{ROOT}/configs/retinanet_rest_lite_1x.py'
arch = dict(_delete_=True, dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4))
model = dict(
    backbone=dict(arch=arch),
    neck=dict(in_channels=[16, 24, 32], out_channels=16),
    bbox_head=dict(in_channels=16, feat_channels=16, stacked_convs=1, num_classes=3),
    test_cfg=dict(score_thr=0.0),
)
metainfo = dict(classes={CLASSES})
test_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(metainfo=metainfo)
)
default_hooks = dict(logger=dict(interval=1))
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1]['transforms'][0][0]['scale'] = (80, 60)
"""

SEGMENTOR = """
_base_ = [
    'mmseg::_base_/models/fpn_r50.py', 'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmrest'], allow_failed_imports=False)
arch = dict(dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4))
model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(_delete_=True, type='ResT', arch=arch, norm_cfg=dict(type='SyncBN')),
    neck=dict(in_channels=[8, 16, 24, 32], out_channels=16),
    decode_head=dict(in_channels=[16, 16, 16, 16], channels=16, num_classes=150),
)
train_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='Resize', scale=(64, 64), keep_ratio=False), dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False, dataset=dict(pipeline=train_pipeline)
)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = dict(num_workers=0, persistent_workers=False)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2, val_interval=2)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1), param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2),
    visualization=dict(type='SegVisualizationHook'),
)
"""

# The same for images as they are drawn.
SMALL_SEGMENTOR = f"""{SEGMENTOR}
resize = dict(type='Resize', scale=(80, 60), keep_ratio=True)
test_pipeline = [
    dict(type='LoadImageFromFile'), resize,
    dict(type='LoadAnnotations', reduce_zero_label=True), dict(type='PackSegInputs'),
]
test_dataloader['dataset'] = dict(pipeline=test_pipeline)
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1]['transforms'][0] = [resize]
"""


def without_default_scope(config, data_root):
    """Return a detector's config with types that name their package, as in Python-style ones."""
    registries = [part for part in vars(mmdet.registry).values() if isinstance(part, Registry)]
    ours = [registry.module_dict for registry in registries if registry.scope == 'mmdet']
    text = load_config(str(config), None, str(data_root)).pretty_text
    for name in chain(*ours):
        text = text.replace(f"type='{name}'", f"type='mmdet.{name}'")
    return f'{text}\ndefault_scope = None\n'


def run(program, *args, cwd, check=True, fresh=False, **environ):
    """Run Python with a file and arguments; return the finished process with its output.

    It is a fork of a process that has imported the libraries, or, with `fresh`, a new one.
    """
    python = sys.executable if fresh else warm_folder() / 'python'
    done = subprocess.run(
        [str(python), str(program), *map(str, args)], cwd=cwd, capture_output=True, text=True,
        env={'OMP_NUM_THREADS': '2', **os.environ, **environ}, timeout=900,
    )  # fmt: skip
    if check:
        assert done.returncode == 0, f'{program} failed:\n{done.stdout}\n{done.stderr}'
    return done


train = partial(run, ROOT / 'tools' / 'train.py')
evaluate = partial(run, ROOT / 'tools' / 'test.py')


def small_clone(folder):
    """Set up a working folder with small networks in `configs/`; return it."""
    for name in 'LICENSE Makefile README.md mmrest requirements setup.py tools'.split():
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / 'configs', folder / 'configs')
    (folder / 'configs' / 'maskrcnn_rmt_s_3x.py').write_text(DETECTOR)
    for segmentor in ('upernet_rmt_s_160k.py', 'semfpn_rmt_s_80k.py'):
        (folder / 'configs' / segmentor).write_text(SEGMENTOR)
    return folder


def save_weights(path, config):
    """Save fresh weights for a config."""
    cfg = load_config(str(config))
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    model.init_weights()
    # mmseg asks for both.
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)


def lay_out(folder, **texts):
    """Write NAME.py and fresh weights NAME.pth for configs; returns `folder`."""
    for name, text in texts.items():
        config = folder / f'{name}.py'
        config.write_text(text)
        load_config(str(config)).dump(config)  # without bases, which take a second to find
        save_weights(folder / f'{name}.pth', config)
    return folder


def run_here(program, *args):
    """Run a script of tools/ in this process, which saves imports; return its status."""
    before, sys.argv = sys.argv, [f'{program}.py', *map(str, args)]
    try:
        runpy.run_path(str(ROOT / 'tools' / f'{program}.py'), run_name='__main__')
    except SystemExit as end:
        return end.code
    finally:
        sys.argv = before
    return 0
