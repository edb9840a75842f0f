"""Networks that a config or a name stands for, for the programs that look at them."""

import copy
import inspect
import logging
import os.path as osp
from contextlib import contextmanager
from typing import Any, Dict, Iterator, NamedTuple, Optional, Tuple

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from ..checkpoint import read_weights
from ..engine.building import check_model
from ..engine.compat import install_file_access, load_guarded
from ..engine.config import is_classifier, load_config, without_sync_bn
from ..engine.errors import UsageError
from ..engine.weights import StrictWeightsHook, fitted_to
from ..models.pyramid import PyramidBackbone

OURS = {
    f'{family.__name__.lower()}_{arch}': dict(type=family.__name__, arch=arch)
    for family in PyramidBackbone.families()
    for arch in family.archs
}
PEERS = {
    'resnet_50': dict(type='mmdet.ResNet', depth=50),
    'swin_t': dict(type='mmdet.SwinTransformer', depths=(2, 2, 6, 2)),
    'swin_s': dict(type='mmdet.SwinTransformer', depths=(2, 2, 18, 2)),
    'pvtv2_b2': dict(
        type='mmdet.PyramidVisionTransformerV2', embed_dims=64, num_layers=[3, 4, 6, 3]
    ),
}
"""mmdet's networks of like size."""

CLASSIFICATION_SIZE = (224, 224)
DETECTION_SIZE = (800, 1280)
SEGMENTATION_SIZE = (512, 512)
"""Height and width, pixels, at which networks are compared."""


class Preprocessing(NamedTuple):
    """What becomes of the colours of an image before a network sees it.

    Attributes:
        mean: of each channel, on a scale of 0 to 255.
        std: likewise.
        order: 'RGB' or 'BGR'.
    """

    mean: Tuple[float, ...] = (123.675, 116.28, 103.53)
    std: Tuple[float, ...] = (58.395, 57.12, 57.375)
    order: str = 'RGB'


def network_config(network: str, cfg_options: Optional[Dict[str, Any]] = None) -> Config:
    """Config with the ``model`` that a config file, or the name of a backbone, stands for.

    Args:
        network: path of a config, or a name of :data:`OURS` or :data:`PEERS`.
        cfg_options: values that replace those of the config, by dotted key.

    Raises:
        UsageError: there is no such name or file, or a value does not fit.
    """
    if network not in {**OURS, **PEERS}:
        if not osp.exists(network) and not network.endswith('.py'):
            raise UsageError(
                f'{network} is neither a config file nor the name of a network; the names are '
                f'{", ".join([*OURS, *PEERS])}'
            )
        return load_config(network, cfg_options)
    scope = 'mmdet' if network in PEERS else 'mmengine'
    model = copy.deepcopy({**OURS, **PEERS}[network])
    cfg = _of_model(model, scope, network)
    cfg.merge_from_dict(cfg_options or {})
    return cfg


def _of_model(model: Dict[str, Any], scope: str, filename: str) -> Config:
    # Without a text it would read the file.
    return Config(dict(model=model, default_scope=scope), f'model = {model}', filename)


def backbone_config(cfg: Config) -> Config:
    """The config with the backbone alone for a model.

    Raises:
        UsageError: its model has none.
    """
    if is_backbone(cfg):
        return cfg
    if 'backbone' not in cfg.model:
        raise UsageError(f'the model of {cfg.filename} has no backbone; leave --backbone-only out')
    scope = cfg.get('default_scope') or 'mmengine'
    return _of_model(copy.deepcopy(cfg.model.backbone), scope, cfg.filename)


def is_backbone(cfg: Config) -> bool:
    """Whether the model of a config is a backbone, as that of a name is, by its type."""
    if cfg.filename in {**OURS, **PEERS}:
        return True
    kind = cfg.model.get('type')
    if isinstance(kind, str):
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmengine'):
            with MODELS.switch_scope_and_registry(None) as models:  # as building does
                kind = models.get(kind)
    # Detectors, segmentors and classifiers have losses and predictions.
    return inspect.isclass(kind) and not issubclass(kind, BaseModel)


def usual_size(cfg: Config) -> Tuple[int, int]:
    """Height and width, pixels, of the images that the network of a config is compared at."""
    if is_backbone(cfg) or is_classifier(cfg):
        return CLASSIFICATION_SIZE
    if cfg.get('default_scope') != 'mmseg':
        return DETECTION_SIZE
    size = (cfg.model.get('data_preprocessor') or {}).get('size')
    return tuple(size) if size else SEGMENTATION_SIZE


def preprocessing(cfg: Config) -> Preprocessing:
    """What the network of a config expects of its images; ImageNet's statistics by default."""
    found = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    usual = Preprocessing()
    # Images are read in the order BGR.
    order = 'RGB' if not found or found.get('bgr_to_rgb') else 'BGR'
    mean, std = found.get('mean') or usual.mean, found.get('std') or usual.std
    return Preprocessing(tuple(mean), tuple(std), order)


def on_meta(cfg: Config) -> nn.Module:
    """The network of a config without memory for its parameters, in training mode.

    Raises:
        UsageError: it cannot be built.
    """
    return check_model(cfg).to('meta')


def build_network(cfg: Config, checkpoint: Optional[str] = None) -> nn.Module:
    """The network of a config on the CPU, in evaluation mode, its SyncBN become BN.

    Args:
        cfg: config with ``model``.
        checkpoint: file of weights. Without one they are random, and always the same; of a
            backbone they are those that a training from scratch begins with, or what its
            ``init_cfg`` says.

    Raises:
        UsageError: it cannot be built.
        CheckpointError: the file cannot be read or does not cover the network.
    """
    install_file_access()
    without_sync_bn(cfg)
    check_model(cfg)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmengine'):
        model = MODELS.build(copy.deepcopy(cfg.model))
    backbone = backbone_of(model)
    if isinstance(backbone, PyramidBackbone):
        with _quiet():
            backbone.init_weights()
    if checkpoint is not None:
        load_weights(model, checkpoint)
    model.eval()  # which returns nothing for some of mmdet's
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the lines of mmengine's log on every parameter."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def backbone_of(model: nn.Module) -> nn.Module:
    """The backbone of a detector or segmentor; a backbone itself."""
    return getattr(model, 'backbone', model)


def load_weights(model: nn.Module, checkpoint: str) -> None:
    """Load all that a network needs, or raise CheckpointError.

    Args:
        model: a detector or segmentor, which the file must cover as a whole, or a backbone,
            which may be a part of what the file holds.
        checkpoint: the file.
    """
    if not osp.exists(checkpoint) and '://' not in checkpoint:
        raise UsageError(f'checkpoint {checkpoint} does not exist; give an existing path')
    if backbone_of(model) is model:
        tensors, report = fitted_to(model, read_weights(checkpoint))
    else:
        content = load_guarded(checkpoint, 'cpu')
        tensors, report, _ = StrictWeightsHook().fitted(model, checkpoint, content)
    model.load_state_dict(tensors, strict=False)
    print(report)
