"""Parts of detectors whose operators need float32 under automatic mixed precision.

Each is mmdet's own module with a hook around its forward; in a config, the type alone changes.
Importing this module asks for nothing of mmdet, building does.
"""

from typing import Any, Tuple

from mmengine.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module('Float32RoIExtractor')
def float32_roi_extractor(of: str = 'SingleRoIExtractor', **kwargs: Any) -> nn.Module:
    """Build a RoI extractor that casts maps and regions to float32.

    mmcv's RoIAlign knows float32 and float16 but not bfloat16, and regions in half precision lie
    off by up to half a pixel (float16) or four (bfloat16) in images as large as COCO's. What
    comes out is float32; autocast casts it again for the layers of the head.

    Args:
        of: type of mmdet's extractor.
        **kwargs: its arguments.
    """
    extractor = MODELS.build(dict(type=f'mmdet.{of}', **kwargs))
    extractor.register_forward_pre_hook(_cast_inputs)
    return extractor


@MODELS.register_module('Float32Head')
def float32_head(of: str, **kwargs: Any) -> nn.Module:
    """Build a head whose predictions are cast to float32 before boxes are made of them.

    mmdet makes anchors in the type of the predictions, which in half precision cannot place them
    in a large image, and mmcv's nms takes float32 only.

    Args:
        of: type of mmdet's head.
        **kwargs: its arguments.
    """
    head = MODELS.build(dict(type=f'mmdet.{of}', **kwargs))
    head.register_forward_hook(_cast_outputs)
    return head


def _cast_inputs(module: nn.Module, args: Tuple[Any, ...]) -> Any:
    return _float32(args)


def _cast_outputs(module: nn.Module, args: Tuple[Any, ...], outputs: Any) -> Any:
    return _float32(outputs)


def _float32(value: Any) -> Any:
    """Tensors of nested tuples and lists in float32; all else as it is."""
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, (tuple, list)):
        return type(value)(_float32(part) for part in value)
    return value
