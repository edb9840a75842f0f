"""Small classifiers of both families, based on the ImageNet configs."""

import re

import torch
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.utils import register_all_modules

from mmrest import RMT
from mmrest.engine.config import load_config
from tests.models.networks import TINY
from tests.runs import ROOT

ARCH = dict(dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4))
SMALL = {'deit_s': dict(dims=(32,), depths=(2,), num_heads=(4,))}
"""Few channels and layers: ARCH for all but these."""

CLASSES = 5
"""Of small networks with token labels."""

SHAPES = """
data_preprocessor = dict(num_classes=3)
data = dict(_delete_=True, type='CustomDataset', data_root='data/imagenet')
loader = dict(batch_size=4, num_workers=1, persistent_workers=False)
train_pipeline, test_pipeline = _base_.train_pipeline, _base_.test_pipeline
train_dataloader = dict(
    dataset=dict(data_prefix='train', pipeline=train_pipeline, **data), **loader
)
val_dataloader = dict(dataset=dict(data_prefix='val', pipeline=test_pipeline, **data), **loader)
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(topk=(1,))
default_hooks = dict(logger=dict(interval=1))
"""
"""The end of a config of runs with synthetic shapes of three classes."""


def small_arch(name):
    """Few channels and layers for an arch; its ratios, decays, scales and switches stay."""
    return dict(SMALL.get(name, ARCH), base=name)


def config(name, small=False):
    """Return the config of a network or recipe, optionally with few channels and layers."""
    stem = name if name.endswith('e') and name[-4:-1].isdigit() else f'{name}_300e'
    cfg = load_config(str(ROOT / 'configs' / f'imagenet_{stem}.py'))
    if small:
        cfg.model.backbone.arch = small_arch(cfg.model.backbone.arch)
        part = cfg.model.neck if cfg.model.neck.type == 'RMTProjection' else cfg.model.head
        part.in_channels = ARCH['dims'][-1]
    return cfg


def small_token_labelling(tokens='projected', arch=TINY[RMT], size='s'):
    """The config of a size with a small network of few classes, and its model."""
    cfg = config(f'rmt_{size}_tl_310e')
    dims = arch['dims']
    backbone = dict(
        arch=dict(_delete_=True, **arch), out_indices=(len(dims) - 1,), drop_path_rate=0.0
    )
    neck = dict(in_channels=dims[-1], out_channels=16, tokens=tokens)
    channels = dims[-1] if tokens == 'last' else 16
    head = dict(in_channels=16, token_channels=channels, num_classes=CLASSES)
    cfg.merge_from_dict(dict(model=dict(backbone=backbone, neck=neck, head=head)))
    cfg.model.data_preprocessor = dict(cfg.data_preprocessor, num_classes=CLASSES)
    model = build(cfg)
    model.init_weights()
    return cfg, model


def build(cfg, device='cpu'):
    """The model of a config."""
    register_all_modules(False)
    with DefaultScope.overwrite_default_scope('mmpretrain'), torch.device(device):
        return MODELS.build(cfg.model)


def released_name(own):
    """Return the official name of a tensor of a classifier."""
    own = own.replace('head.aux_fc', 'aux_head')
    return re.sub(r'^(backbone|neck)\.|(?<=^head\.)fc\.', '', own)


def released(model):
    """Return the weights of a classifier in official format."""
    tensors = {released_name(own): tensor for own, tensor in model.state_dict().items()}
    if type(model.backbone).__name__ == 'RMT':
        tensors.update({f'layers.{stage}.Relpos.angle': torch.zeros(4) for stage in range(4)})
    return {'model': tensors}
