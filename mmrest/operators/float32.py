"""Parts of detectors whose ops need float32 under automatic mixed precision.

Each is mmdet's own module with a forward hook; in a config, only the type changes. mmdet is
imported when they are built, not with this module.
"""

from typing import Any

from mmengine.registry import MODELS
from mmengine.utils import apply_to
from torch import Tensor, nn


@MODELS.register_module('Float32RoIExtractor')
def float32_roi_extractor(of: str = 'SingleRoIExtractor', **kwargs: Any) -> nn.Module:
    """Build a RoI extractor that casts maps and regions to float32.

    mmcv's RoIAlign supports float32 and float16 but not bfloat16. In half precision, regions are
    off by up to half a pixel (float16) or four (bfloat16) in images as large as COCO's. The output
    is float32; autocast casts it again for the layers of the head. `of` is the type of the mmdet
    extractor, and `kwargs` are its arguments.
    """
    extractor = MODELS.build(dict(type=f'mmdet.{of}', **kwargs))
    extractor.register_forward_pre_hook(_cast)
    return extractor


@MODELS.register_module('Float32Head')
def float32_head(of: str, **kwargs: Any) -> nn.Module:
    """Build a head whose predictions are cast to float32 before they are decoded to boxes.

    mmdet creates anchors in the dtype of the predictions; half precision cannot represent their
    positions in a large image. mmcv's nms supports only float32. `of` is the type of the mmdet
    head, and `kwargs` are its arguments.
    """
    head = MODELS.build(dict(type=f'mmdet.{of}', **kwargs))
    head.register_forward_hook(_cast)
    return head


def _cast(module: nn.Module, *values: Any) -> Any:
    """Hook that casts the inputs before a module has run, or its outputs after it."""
    return apply_to(values[-1], _is_float, Tensor.float)


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
