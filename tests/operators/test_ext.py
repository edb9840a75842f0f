"""Ops on torchvision and torch against compiled mmcv, and against definitions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmcv import ops
from mmcv.ops import multi_scale_deform_attn as ms

from tests.operators.cases import REFERENCE, cases, sample, with_gradients

CASES = cases()
# Of the largest number. mmcv rounds half types at each step, and what it computed in float64 is
# stored in float32.
TOLERANCES = {torch.float16: 1e-2, torch.float32: 1e-6, torch.float64: 2e-7}


@pytest.fixture(scope='module')
def reference():
    with np.load(REFERENCE) as arrays:
        yield dict(arrays)


@pytest.mark.parametrize('name', CASES)
def test_equal_to_compiled_mmcv(name, reference):
    outputs = CASES[name]()
    for index, found in enumerate(outputs):
        expected = torch.from_numpy(reference[f'{name}:{index}'])
        assert found.shape == expected.shape
        if ('nms' in name and 'gaussian' not in name) or not found.is_floating_point():
            assert torch.equal(found, expected)
        elif found.numel():
            tolerance = TOLERANCES[found.dtype] * expected.abs().max().item()
            torch.testing.assert_close(found, expected.to(found.dtype), rtol=0, atol=tolerance)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_where_mmcv_has_none(dtype):
    x, rois = sample(1, 2, 9, 9, dtype=dtype), torch.tensor([[0, 1.0, 2.0, 7.0, 8.0]])
    found = ops.roi_align(x, rois.to(dtype), (3, 3), 1.0, 2, 'avg', True)
    expected = ops.roi_align(x.float(), rois, (3, 3), 1.0, 2, 'avg', True)
    assert found.dtype == dtype and torch.equal(found, expected.to(dtype))
    shapes, start = torch.tensor([[3, 4]]), torch.tensor([0])
    value, place, weight = (
        sample(1, *s, dtype=dtype) for s in ((12, 2, 4), (5, 2, 1, 3, 2), (5, 2, 1, 3))
    )
    attend = ms.MultiScaleDeformableAttnFunction.apply
    found = attend(value, shapes, start, place.sigmoid(), weight, 64)
    assert found.dtype == dtype and found.isfinite().all()
    boxes = torch.tensor([[0, 0, 8, 8], [0, 0, 8, 7], [4, 4, 9, 9]], dtype=dtype)
    _, kept = ops.nms(boxes, torch.tensor([0.5, 0.75, 0.25], dtype=dtype), 0.5)
    assert kept.tolist() == [1, 2]


@pytest.mark.parametrize('weighted', [False, True])
def test_sigmoid_focal_loss(weighted):
    """Equation 5 of the paper; the class beyond the last one is background."""
    logits = sample(9, 5, scale=4, dtype=torch.float64)
    target = torch.tensor([0, 1, 2, 3, 4, 4, 0, 2, 1] if weighted else [0, 1, 5, 3, 5, 4, 0, 2, 1])
    weight = torch.linspace(0.5, 1.5, 5, dtype=torch.float64) if weighted else None

    def definition(x):
        hit = F.one_hot(target, 6)[:, :5].double()
        p = torch.where(hit > 0, x.sigmoid(), 1 - x.sigmoid())
        alpha = 0.25 * hit + 0.75 * (1 - hit)
        loss = -alpha * (1 - p) ** 1.5 * p.log()
        return loss if weight is None else loss * weight[target][:, None]

    found = with_gradients(
        lambda x: ops.sigmoid_focal_loss(x, target, 1.5, 0.25, weight, 'none'), [logits]
    )
    torch.testing.assert_close(found, with_gradients(definition, [logits]))


@pytest.mark.parametrize('gamma', [0.5, 2.0])
def test_sure_predictions_stay_finite(gamma):
    logits, target = torch.tensor([[200.0, -200.0]] * 2), torch.tensor([0, 1])
    logits.requires_grad_()
    loss = ops.sigmoid_focal_loss(logits, target, gamma, 0.25, None, 'none')
    loss.sum().backward()
    assert loss.isfinite().all() and logits.grad.isfinite().all()


def test_multi_scale_deformable_attention():
    """The Function that mmcv takes on a GPU against the module's form on a CPU, in gradients."""
    shapes = torch.tensor([[5, 7], [3, 4]])
    start = torch.tensor([0, 35])
    value = sample(2, 47, 2, 4, dtype=torch.float64)
    locations = sample(2, 6, 2, 2, 3, 2, seed=1, dtype=torch.float64).sigmoid()
    weights = sample(2, 6, 2, 2, 3, seed=2, dtype=torch.float64)
    forms = (
        lambda v, x, w: ms.MultiScaleDeformableAttnFunction.apply(v, shapes, start, x, w, 64),
        lambda v, x, w: ms.multi_scale_deformable_attn_pytorch(v, shapes, x, w),
    )
    found, expected = (with_gradients(form, [value, locations, weights]) for form in forms)
    torch.testing.assert_close(found, expected)


def test_missing_ops_are_named():
    with pytest.raises(NotImplementedError, match=r'^the op nms_match needs compiled mmcv'):
        ops.nms_match(torch.rand(4, 5), 0.5)
    with pytest.raises(NotImplementedError, match=r'^the op roi_align with '):
        ops.roi_align(torch.rand(1, 1, 4, 4), torch.rand(1, 5), 2, 1.0, 0, 'max', True)
