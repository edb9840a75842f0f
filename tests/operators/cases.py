"""Calls of mmcv.ops with awkward inputs, and the numbers of compiled mmcv for them.

``python -m tests.operators.cases`` writes tests/data/operators.npz. It has to be run where mmcv's
operators are compiled: the file holds the numbers of mmcv 2.1.0 on a CPU. Inputs are not stored;
they come from NumPy's legacy generator, whose stream never changes.
"""

import functools
import itertools
from pathlib import Path

import numpy as np
import torch
from mmcv import ops

from mmrest.operators import describe

REFERENCE = Path(__file__).resolve().parents[1] / 'data' / 'operators.npz'


def sample(*shape, seed=0, scale=1.0, dtype=torch.float32):
    values = np.random.RandomState(seed).standard_normal(shape) * scale
    return torch.as_tensor(values).to(dtype)


def boxes(count, seed=0, size=60.0):
    """Boxes on a grid of quarters, so that overlaps often equal a threshold, and scores."""
    random = np.random.RandomState(seed)
    corners = random.uniform(0, size, (count, 2))
    found = np.concatenate([corners, corners + random.uniform(1, size / 2, (count, 2))], axis=1)
    scores = (random.permutation(count) + 1) / (count + 1)
    return torch.from_numpy((found * 4).round() / 4).float(), torch.from_numpy(scores).float()


def with_gradients(function, inputs):
    """Return outputs, and gradients of a randomly weighted sum of outputs."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    output = function(*inputs)
    output.backward(sample(*output.shape, seed=9, dtype=output.dtype))
    return [output, *(x.grad for x in inputs)]


def nms(count, offset, threshold, **options):
    return ops.nms(*boxes(count), threshold, offset=offset, **options)


def soft_nms(count, method, offset):
    return ops.soft_nms(*boxes(count), 0.3, method=method, offset=offset, min_score=0.05)


def batched_nms(count, **options):
    classes = torch.from_numpy(np.random.RandomState(3).randint(0, 80, count))
    return ops.batched_nms(*boxes(count, size=30), classes, **options)


def roi_align(aligned, sampling_ratio, size=(7, 7), count=6, dtype=torch.float32):
    rois = torch.tensor([
        [0, 3.3, 4.1, 30.2, 41.9], [1, -9.0, -5.5, 12.0, 13.0], [1, 20.0, 10.0, 90.0, 77.0],
        [0, 5.0, 5.0, 5.0, 5.0], [1, 40.0, 30.0, 40.25, 66.0], [0, 60.0, 60.0, 75.0, 80.0],
    ])  # fmt: skip
    rois = rois[:count].to(dtype)
    return with_gradients(
        lambda x: ops.roi_align(x, rois, size, 0.25, sampling_ratio, 'avg', aligned),
        [sample(2, 3, 13, 17, dtype=dtype)],
    )


def deform_conv(stride, dilation, groups, deform_groups, modulated, kernel, dtype=torch.float32):
    inputs = sample(2, 4, 9, 11, dtype=dtype)
    weight = sample(6, 4 // groups, *kernel, seed=1, scale=0.3, dtype=dtype)
    padding = (kernel[0] // 2, kernel[1] // 2)
    maps = [
        (length + 2 * pad - dilation * (k - 1) - 1) // stride + 1
        for length, pad, k in zip(inputs.shape[2:], padding, kernel)
    ]
    taps = deform_groups * kernel[0] * kernel[1]
    # Odd multiples of 1/128: positions are exact in half types, and none is on a pixel, where the
    # gradient jumps.
    offset = ((sample(2, 2 * taps, *maps, seed=2, scale=128).round() + 0.5) / 64).to(dtype)
    arguments = (stride, padding, dilation, groups, deform_groups)
    if not modulated:
        return with_gradients(
            lambda x, o, w: ops.deform_conv2d(x, o, w, *arguments), [inputs, offset, weight]
        )
    mask = sample(2, taps, *maps, seed=3, dtype=dtype)
    bias = sample(6, seed=4, dtype=dtype)
    return with_gradients(
        lambda x, o, m, w, b: ops.modulated_deform_conv2d(x, o, m, w, b, *arguments),
        [inputs, offset, mask, weight, bias],
    )


def cases():
    """Name -> function that calls mmcv.ops and returns tensors."""
    found = {}

    def add(function, *arguments, **options):
        texts = [*map(str, arguments), *(f'{key}={value}' for key, value in options.items())]
        name = f'{function.__name__}({", ".join(texts)})'
        found[name] = functools.partial(function, *arguments, **options)

    for count, offset in itertools.product((0, 1, 57, 300), (0, 1)):
        for threshold in (0.3, 0.6, 0.7):
            add(nms, count, offset, threshold)
    add(nms, 57, 0, 0.5, score_threshold=0.4, max_num=5)
    for method, offset in itertools.product(('naive', 'linear', 'gaussian'), (0, 1)):
        add(soft_nms, 57, method, offset)
    for class_agnostic in (False, True):
        add(batched_nms, 400, nms_cfg=dict(iou_threshold=0.5), class_agnostic=class_agnostic)
    add(batched_nms, 400, nms_cfg=dict(iou_threshold=0.5, split_thr=100))
    add(batched_nms, 400, nms_cfg=dict(type='soft_nms', iou_threshold=0.5, min_score=0.05))
    for aligned, ratio in itertools.product((False, True), (0, 2)):
        add(roi_align, aligned, ratio)
        add(roi_align, aligned, ratio, size=(5, 3), dtype=torch.float64)
    add(roi_align, True, 0, count=0)
    add(roi_align, True, 2, dtype=torch.float16)
    for modulated in (False, True):
        add(deform_conv, 1, 1, 1, 1, modulated, (3, 3))
        add(deform_conv, 2, 2, 2, 2, modulated, (3, 3), dtype=torch.float64)
        add(deform_conv, 1, 1, 2, 4, modulated, (1, 3))
        add(deform_conv, 2, 1, 1, 2, modulated, (3, 3), dtype=torch.float16)
    return found


def write():
    """Write the reference, with compiled ops only."""
    assert describe() == 'compiled', f'the operators here are not compiled: {describe()}'
    arrays = {}
    for name, case in cases().items():
        for index, tensor in enumerate(case()):
            array = tensor.detach().numpy()
            arrays[f'{name}:{index}'] = array.astype('f4') if array.dtype == 'f8' else array
    np.savez_compressed(REFERENCE, **arrays)


if __name__ == '__main__':
    write()
