"""Parameters and multiply-adds of networks, with every product of the attention counted."""

from typing import NamedTuple, Sequence, Tuple, Union

import torch
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..models import RMT, ResT, RMTProjection
from ..ops import use_backend

NUM_REGIONS = 1000
NUM_MASKS = 100
"""Regions that a two-stage detector classifies and masks that it draws, as its test_cfg allows."""


class Complexity(NamedTuple):
    """What a network takes.

    Attributes:
        parameters: all of them, of heads that only training uses too.
        macs: multiply-adds of inference on one image.
    """

    parameters: int
    macs: int


def count(model: nn.Module, height: int, width: int) -> Complexity:
    """Count what a backbone, a detector, a segmentor or a classifier takes for one image.

    The products of convolutions, linear layers and attention are counted, as mmengine's counter
    does not for fused attention; norms, activations, resizing, RoIAlign and NMS are not. A
    two-stage detector has 1000 regions and 100 masks.

    Args:
        model: the network, on the meta device or any other.
        height: pixels.
        width: pixels.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        # In the plain form every product is one that torch's counter knows.
        with torch.no_grad(), use_backend('reference'), FlopCounterMode(display=False) as counter:
            _infer(model, torch.zeros(1, 3, height, width, device=device))
    finally:
        model.train(training)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Complexity(parameters, counter.get_total_flops() // 2)


def count_config(cfg: dict, height: int, width: int) -> Complexity:
    """Count what the model of a config takes; it needs neither memory nor data.

    Args:
        cfg: config with ``model`` and ``default_scope``.
        height: pixels.
        width: pixels.
    """
    with DefaultScope.overwrite_default_scope(cfg['default_scope']), torch.device('meta'):
        model = MODELS.build(cfg['model'])
    return count(model, height, width)


def count_classifier(family: str, arch: str, height: int, width: int) -> Complexity:
    """Count what a network takes with the classifier of its family, for 1000 classes.

    It is the network of the ImageNet configs, which mmpretrain is needed to read.

    Args:
        family: ``ResT`` or ``RMT``.
        arch: name of the network in its family.
        height: pixels.
        width: pixels.
    """
    with torch.device('meta'):
        return count(_Classifier(family, arch), height, width)


class _Classifier(nn.Module):
    def __init__(self, family: str, arch: str) -> None:
        super().__init__()
        if family == 'ResT':
            self.backbone, self.neck = ResT(arch, out_indices=(3,)), _average
            channels = self.backbone.out_channels[0]
        else:
            self.backbone = RMT(arch, out_indices=(3,), output_norms=False)
            self.neck, channels = RMTProjection(self.backbone.out_channels[0]), 1024
        self.head = nn.Linear(channels, 1000)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.neck(self.backbone(image))[-1])


def _average(maps: Sequence[Tensor]) -> Tuple[Tensor]:
    return (maps[-1].mean((2, 3)),)


def _infer(model: nn.Module, image: Tensor) -> None:
    """Everything of inference that multiplies, for as many regions as there can be."""
    if not hasattr(model, 'extract_feat'):
        model(image)
        return
    maps = model.extract_feat(image)
    for name in ('decode_head', 'bbox_head', 'rpn_head', 'head'):
        head = getattr(model, name, None)
        if head is not None:
            head(maps)
    roi_head = getattr(model, 'roi_head', None)
    if roi_head is not None:
        _infer_regions(roi_head.bbox_roi_extractor, roi_head.bbox_head, NUM_REGIONS, image)
        if roi_head.with_mask:
            _infer_regions(roi_head.mask_roi_extractor, roi_head.mask_head, NUM_MASKS, image)


def _infer_regions(
    extractors: Union[nn.Module, Sequence[nn.Module]],
    heads: Union[nn.Module, Sequence[nn.Module]],
    number: int,
    image: Tensor,
) -> None:
    for extractor, head in zip(_stages(extractors), _stages(heads)):
        size = extractor.roi_layers[0].output_size
        head(image.new_zeros(number, extractor.out_channels, *size))


def _stages(part: Union[nn.Module, Sequence[nn.Module]]) -> Sequence[nn.Module]:
    """The stages of a cascade, of which other heads have one."""
    return part if isinstance(part, nn.ModuleList) else [part]
