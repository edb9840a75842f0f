"""Networks by config or name."""

import copy
import inspect
import logging
import os.path as osp
from typing import Any, Dict, NamedTuple, Optional, Tuple

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import nn

from ..checkpoint import read_weights
from ..engine.building import check_model, find_type
from ..engine.config import (
    default_scope,
    dicts,
    is_classifier,
    is_segmentor,
    load_config,
    merge_options,
    type_name,
    without_sync_bn,
)
from ..engine.weight_hooks import fitted_to, load_full_weights
from ..errors import UsageError
from ..models.pyramid import PyramidBackbone
from ..shipped import find

OURS = {
    f'{family.__name__.lower()}_{arch}': dict(type=family.__name__, arch=arch)
    for family in PyramidBackbone.__subclasses__()
    for arch in family.archs
}
PEERS = {  # mmdet backbones of similar size
    'resnet_50': dict(type='mmdet.ResNet', depth=50),
    'swin_t': dict(type='mmdet.SwinTransformer', depths=(2, 2, 6, 2)),
    'swin_s': dict(type='mmdet.SwinTransformer', depths=(2, 2, 18, 2)),
    'pvtv2_b2': dict(
        type='mmdet.PyramidVisionTransformerV2', embed_dims=64, num_layers=[3, 4, 6, 3]
    ),
}
BACKBONES = {**OURS, **PEERS}

# Height and width, in pixels, at which networks are compared.
CLASSIFICATION_SIZE = (224, 224)
DETECTION_SIZE = (800, 1280)
SEGMENTATION_SIZE = (512, 512)


class Preprocessing(NamedTuple):
    """Normalisation of images by channel, on a scale of 0 to 255; by default, ImageNet's.

    `order` is 'RGB' or 'BGR'.
    """

    mean: Tuple[float, ...] = (123.675, 116.28, 103.53)
    std: Tuple[float, ...] = (58.395, 57.12, 57.375)
    order: str = 'RGB'


def network_config(network: str, cfg_options: Optional[Dict[str, Any]] = None) -> Config:
    """Return the config of a network: a path or name of a config, or a name in :data:`BACKBONES`.

    Values in `cfg_options`, by dotted key, override the config's.

    Raises:
        UsageError: unknown name, missing file, or a value that does not fit.
    """
    if network in BACKBONES:
        scope = 'mmdet' if network in PEERS else 'mmengine'
        cfg = _with_model(copy.deepcopy(BACKBONES[network]), scope, network)
        merge_options(cfg, cfg_options)
        return cfg
    if not (osp.exists(network) or network.endswith('.py') or find(network)):
        names = ', '.join(BACKBONES)
        raise UsageError(f'{network} is not a config or a backbone; the backbones are {names}')
    return load_config(network, cfg_options)


def _with_model(model: Dict[str, Any], scope: str, filename: str) -> Config:
    # Without a text, Config would read the file.
    return Config(dict(model=model, default_scope=scope), f'model = {model}', filename)


def backbone_config(cfg: Config) -> Config:
    """Return a config of only the backbone; raise UsageError if the model has none."""
    if is_backbone(cfg):
        return cfg
    if 'backbone' not in cfg.model:
        raise UsageError(
            f'the model of {cfg.filename} has no backbone; use another network, or drop '
            '--backbone-only if it is set'
        )
    scope = cfg.get('default_scope', 'mmengine')
    return _with_model(copy.deepcopy(cfg.model.backbone), scope, cfg.filename)


def is_backbone(cfg: Config) -> bool:
    """Return True if the model of a config is a backbone."""
    with default_scope(cfg):
        kind = find_type(MODELS, cfg.model.get('type'))
    # Detectors, segmentors and classifiers have losses and predictions.
    return inspect.isclass(kind) and not issubclass(kind, BaseModel)


def usual_size(cfg: Config) -> Tuple[int, int]:
    """Return the height and width, in pixels, at which the network of a config is compared."""
    if is_backbone(cfg) or is_classifier(cfg):
        return CLASSIFICATION_SIZE
    if not is_segmentor(cfg):
        return DETECTION_SIZE
    size = (cfg.model.get('data_preprocessor') or {}).get('size')
    return tuple(size) if size else SEGMENTATION_SIZE


def preprocessing(cfg: Config) -> Preprocessing:
    """Return the normalisation that the network of a config expects.

    It is that of the data preprocessor, or else of the test pipeline, or else ImageNet's.
    """
    options = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    steps = [part for _, part in dicts(cfg.get('test_dataloader'), '')]
    steps = [part for part in steps if type_name(part).endswith('Normalize')]
    if steps and not options.get('mean'):
        options = {'to_rgb': True, **steps[0]}
    elif not options:
        return Preprocessing()
    # Images are read as BGR; mmpretrain and Normalize call it to_rgb.
    order = 'RGB' if options.get('bgr_to_rgb') or options.get('to_rgb') else 'BGR'
    mean, std = options.get('mean') or (0.0,) * 3, options.get('std') or (1.0,) * 3
    return Preprocessing(tuple(mean), tuple(std), order)


def on_meta(cfg: Config) -> nn.Module:
    """Return the network of a config on the meta device; raise UsageError if that fails."""
    return check_model(cfg).to('meta')


def build_network(cfg: Config, checkpoint: Optional[str] = None) -> nn.Module:
    """Return the network of a config on the CPU, in evaluation mode, with BN for SyncBN.

    A line about a checkpoint is printed. Without one, weights are random with a fixed seed. Our
    backbones are then initialised as for training from scratch, or by their ``init_cfg``.

    Raises:
        UsageError: the network cannot be built.
        CheckpointError: the file cannot be read or does not cover the network.
    """
    without_sync_bn(cfg)
    check_model(cfg)
    torch.manual_seed(0)
    with default_scope(cfg):
        model = MODELS.build(copy.deepcopy(cfg.model))
    backbone = getattr(model, 'backbone', model)
    if isinstance(backbone, PyramidBackbone):
        logger = MMLogger.get_current_instance()
        level = logger.level
        logger.setLevel(logging.WARNING)  # no line per parameter
        try:
            backbone.init_weights()
        finally:
            logger.setLevel(level)
    if checkpoint is not None:
        if backbone is model:  # the file may contain a full model
            tensors, report = fitted_to(model, read_weights(checkpoint))
            model.load_state_dict(tensors, strict=False)
        else:
            _, report = load_full_weights(model, checkpoint)
        print(report)
    model.eval()  # returns None for some mmdet backbones
    return model
