"""Stand-in for ``mmcv._ext``: the functions that ``mmcv.ops`` calls, on torchvision and torch.

Names and the order of arguments match mmcv's ``csrc/pytorch/pybind.cpp``. Like the compiled
functions, most of them write their results into tensors that the caller allocated. Forward and
backward run on every device that torchvision supports. Half precision is computed in float32.

The file is loaded under the name ``mmcv._ext``, so it must not use relative imports.
"""

import functools
from typing import Any, Callable, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

try:
    import torchvision
except Exception as error:  # a torchvision for another torch raises RuntimeError
    raise ImportError(
        f'torchvision fails to import ({error}): install the release for torch {torch.__version__}'
    ) from error

# The ops behind torchvision's functions; they have no registered gradients.
_torchvision = torch.ops.torchvision


def __getattr__(name: str) -> Any:
    """Return a function that reports a missing op; mmcv.ops requests every name."""
    if name.startswith('__'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return functools.partial(_refuse, name)


def _refuse(name: str, *args: Any, **kwargs: Any) -> None:
    raise NotImplementedError(
        f'the op {name} needs compiled mmcv, which is not installed: '
        'pip uninstall mmcv-lite, then MMCV_WITH_OPS=1 pip install --no-build-isolation '
        '"mmcv>=2.0.0,<2.2.0" (or the prebuilt wheel of your torch)'
    )


def get_compiler_version() -> str:
    """Return the substitute for a compiler version."""
    return f'none (torchvision {torchvision.__version__})'


def get_compiling_cuda_version() -> str:
    """Return torch's CUDA version."""
    return torch.version.cuda or 'not available'


def _single(tensor: Tensor) -> Tensor:
    """Return a tensor in at least single precision."""
    return tensor.float() if tensor.element_size() < 4 else tensor


def _gradients(function: Callable[..., Tensor], inputs: Sequence[Tensor], grad: Tensor) -> List:
    """Recompute a function in at least float32, and return its gradients."""
    with torch.enable_grad():
        inputs = [_single(x.detach()).requires_grad_() for x in inputs]
        output = function(*inputs)
    return list(torch.autograd.grad(output, inputs, grad.to(output.dtype)))


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Return the indices of boxes that non-maximum suppression keeps, by descending score."""
    boxes = _single(boxes)
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    # mmcv compares in float32, torchvision in float64: 0.6 of float32 is above 0.6.
    return _torchvision.nms(boxes, scores.to(boxes.dtype), float(np.float32(iou_threshold)))


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Decay the scores of overlapping boxes: Bodla et al., Soft-NMS, 2017.

    The method is naive (0) or linear (1), from an overlap of `iou_threshold`, or a Gaussian (2)
    of width `sigma`. Boxes (N, 4) whose scores (N,) fall below `min_score` are dropped. Returns
    the indices of the others, by descending score, and writes them to `dets` (N, 5).
    """
    corners, scores = _single(boxes).numpy(), _single(scores).numpy().copy()
    low, high = corners[:, :2], corners[:, 2:]
    areas = (high - low + offset).prod(1)
    kept, left = [], np.arange(len(scores))
    while len(left):
        place = scores[left].argmax()
        best = left[place]
        kept.append(best)
        left[place] = left[0]  # as mmcv; the order decides between boxes of equal score
        left = left[1:]
        size = np.minimum(high[best], high[left]) - np.maximum(low[best], low[left]) + offset
        inter = size.clip(0).prod(1)
        with np.errstate(invalid='ignore'):
            iou = inter / (areas[best] + areas[left] - inter)
        if method == 2:
            scores[left] *= np.exp(-(iou * iou) / np.float32(sigma))
        else:
            scores[left] *= np.where(iou >= np.float32(iou_threshold), (1 - iou) * method, 1)
        left = left[~(scores[left] < np.float32(min_score))]
    kept = torch.tensor(kept, dtype=torch.int64)
    dets[: len(kept), :4] = boxes[kept]
    dets[: len(kept), 4] = torch.from_numpy(scores)[kept]
    return kept


# Functions, because torch.compile cannot call an operator.itemgetter.
def _grid(options: Mapping[str, Any]) -> Tuple[Any, ...]:
    return options['spatial_scale'], options['aligned_height'], options['aligned_width']


def _sampling(options: Mapping[str, Any]) -> Tuple[Any, ...]:
    return options['sampling_ratio'], options['aligned']


def roi_align_forward(
    input: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor, argmax_x: Tensor, **options: Any
) -> None:
    """Average bilinear samples of each region: He et al., Mask R-CNN, section 3."""
    if options['pool_mode'] == 0:
        _refuse("roi_align with pool_mode='max'")
    input = _single(input)
    rois = _single(rois).to(input.dtype)
    output.copy_(_torchvision.roi_align(input, rois, *_grid(options), *_sampling(options)))


def roi_align_backward(*tensors: Tensor, **options: Any) -> None:
    """Gradient of :func:`roi_align_forward`."""
    grad_output, rois, _, _, grad_input = tensors
    grad = _single(grad_output)
    rois = _single(rois).to(grad.dtype)
    size = grad_input.shape
    grad_input.copy_(
        _torchvision._roi_align_backward(grad, rois, *_grid(options), *size, *_sampling(options))
    )


def deform_conv_forward(*tensors: Tensor, **geometry: int) -> None:
    """Deformable convolution without modulation: Dai et al., 2017, equation 2."""
    input, weight, offset, output, *_ = tensors
    output.copy_(_torchvision.deform_conv2d(*_deform_arguments(input, weight, offset, geometry)))


def deform_conv_backward_input(*tensors: Tensor, **geometry: int) -> None:
    """Gradients of :func:`deform_conv_forward` with respect to input and offset."""
    input, offset, gradOutput, gradInput, gradOffset, weight, _ = tensors
    grads = _deform_gradients(gradOutput, input, weight, offset, geometry)
    gradInput.copy_(grads[0])
    gradOffset.copy_(grads[2])


def deform_conv_backward_parameters(*tensors: Tensor, scale: float, **geometry: int) -> None:
    """Gradient of :func:`deform_conv_forward` with respect to the weight, added in place."""
    input, offset, gradOutput, gradWeight, *_ = tensors
    weight = torch.zeros_like(gradWeight)
    grads = _deform_gradients(gradOutput, input, weight, offset, geometry)
    gradWeight.add_(grads[1].to(gradWeight), alpha=scale)


def modulated_deform_conv_forward(*tensors: Tensor, with_bias: bool, **geometry: int) -> None:
    """Modulated deformable convolution: Zhu et al., Deformable ConvNets v2, equation 1."""
    input, weight, bias, _, offset, mask, output, _ = tensors
    bias = bias if with_bias else None
    arguments = _deform_arguments(input, weight, offset, geometry, mask, bias)
    output.copy_(_torchvision.deform_conv2d(*arguments))


def modulated_deform_conv_backward(*tensors: Tensor, with_bias: bool, **geometry: int) -> None:
    """Gradients of :func:`modulated_deform_conv_forward`."""
    input, weight, _, _, offset, mask, _, *targets, grad_output = tensors
    grad_input, grad_weight, grad_bias, grad_offset, grad_mask = targets
    grads = _deform_gradients(grad_output, input, weight, offset, geometry, mask)
    targets = [grad_input, grad_weight, grad_offset, grad_mask]
    for target, grad in zip(targets + [grad_bias] * with_bias, grads):
        target.copy_(grad)


def _deform_gradients(grad: Tensor, *inputs: Any) -> Sequence[Tensor]:
    """Return the gradients of input, weight, offset, mask and bias."""
    return _torchvision._deform_conv2d_backward(_single(grad), *_deform_arguments(*inputs))


def _deform_arguments(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    geometry: Mapping[str, int],
    mask: Optional[Tensor] = None,
    bias: Optional[Tensor] = None,
) -> List:
    """Return the arguments of torchvision's deform_conv2d: tensors, and mmcv's geometry."""
    modulated = mask is not None
    if modulated:
        names = [f'{name}_{axis}' for name in ('stride', 'pad', 'dilation') for axis in 'hw']
    else:
        names = ['dH', 'dW', 'padH', 'padW', 'dilationH', 'dilationW']
        mask = input.new_zeros(len(input), 1)
    if bias is None:
        bias = weight.new_zeros(len(weight))
    tensors = map(_single, (input, weight, offset, mask, bias))
    return [*tensors, *(geometry[n] for n in (*names, 'group', 'deformable_group')), modulated]


def _sigmoid_focal_loss(
    input: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float
) -> Tensor:
    hit = target[:, None] == torch.arange(input.shape[1], device=input.device)
    loss = F.binary_cross_entropy_with_logits(input, hit.to(input), reduction='none')
    # Never 0: a power below 1 has no finite gradient there.
    missed = torch.where(hit, -input, input).sigmoid().clamp(min=torch.finfo(input.dtype).tiny)
    loss = loss * missed**gamma * torch.where(hit, alpha, 1 - alpha)
    return loss * weight[target][:, None] if len(weight) else loss


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, *, gamma: float, alpha: float
) -> None:
    """Binary focal loss of each class: Lin et al., Focal Loss, equation 5.

    Logits and losses are (N, C), classes (N,); those outside 0 to C - 1 are background. There is
    one weight per class, or none.
    """
    output.copy_(_sigmoid_focal_loss(_single(input), target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, **options: float
) -> None:
    """Gradient of :func:`sigmoid_focal_loss_forward`, for each loss with respect to its logit."""
    loss = functools.partial(_sigmoid_focal_loss, target=target, weight=weight, **options)
    (grad,) = _gradients(loss, [input], torch.ones_like(input))
    grad_input.copy_(grad)


def _ms_deform_attn(
    value: Tensor, spatial_shapes: Tensor, sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    # grid_sample has no half precision on a CPU, and rounds positions in it.
    tensors = (_single(x) for x in (sampling_locations, attention_weights))
    return multi_scale_deformable_attn_pytorch(_single(value), spatial_shapes, *tensors)


def ms_deform_attn_forward(*tensors: Tensor, im2col_step: int) -> Tensor:
    """Multi-scale deformable attention, see mmcv: Zhu et al., Deformable DETR, equation 3."""
    value, spatial_shapes, _, sampling_locations, attention_weights = tensors
    out = _ms_deform_attn(value, spatial_shapes, sampling_locations, attention_weights)
    return out.to(value.dtype)


def ms_deform_attn_backward(*tensors: Tensor, im2col_step: int) -> None:
    """Gradients of :func:`ms_deform_attn_forward`."""
    value, spatial_shapes, _, sampling_locations, attention_weights, grad_output = tensors[:6]
    grads = _gradients(
        lambda value, *rest: _ms_deform_attn(value, spatial_shapes, *rest),
        [value, sampling_locations, attention_weights],
        grad_output,
    )
    for target, grad in zip(tensors[6:], grads):
        target.copy_(grad)
