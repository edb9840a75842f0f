"""Small classifiers of both families, as the configs of ImageNet put them together."""

import re

import torch
from mmengine.registry import MODELS, DefaultScope

from mmrest.engine.config import load_config
from tests.tools.runs import ROOT

ARCH = dict(dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4))
SMALL = {'deit_s': dict(dims=(32,), depths=(2,), num_heads=(4,))}
"""Few channels and layers: ARCH for all but these."""

NETWORKS = (
    'rest_lite', 'rest_small', 'rest_base', 'rest_large', 'rmt_t', 'rmt_s', 'rmt_b', 'rmt_l',
)  # fmt: skip


def small_arch(name):
    """Few channels and layers for an arch; its ratios, decays, scales and switches stay."""
    return dict(SMALL.get(name, ARCH), base=name)


def config(name, small=False):
    """The config of a network, on request with few channels and layers."""
    cfg = load_config(str(ROOT / 'configs' / f'imagenet_{name}_300e.py'))
    if small:
        cfg.model.backbone.arch = small_arch(cfg.model.backbone.arch)
        part = cfg.model.neck if cfg.model.neck.type == 'RMTProjection' else cfg.model.head
        part.in_channels = ARCH['dims'][-1]
    return cfg


def build(cfg, device='cpu'):
    """The model of a config."""
    with DefaultScope.overwrite_default_scope('mmpretrain'), torch.device(device):
        return MODELS.build(cfg.model)


def released_name(own):
    """What released files call a tensor of a classifier."""
    return re.sub(r'^(backbone|neck)\.|(?<=^head\.)fc\.', '', own)


def released(model):
    """The weights of a classifier as a released file has them."""
    tensors = {released_name(own): tensor for own, tensor in model.state_dict().items()}
    if type(model.backbone).__name__ == 'RMT':
        tensors.update({f'layers.{stage}.Relpos.angle': torch.zeros(4) for stage in range(4)})
    return {'model': tensors}
