"""The Triton kernels of MaSA, in Triton's interpreter."""

import pytest
import torch

from mmrest.ops import masa, use_backend
from tests.ops.test_masa import HALF, compare, inputs, tables_of

pytest.importorskip('triton')

slow = pytest.mark.slow


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, *HALF])
@pytest.mark.parametrize(
    'axial, batch, height, width, heads, dim',
    [
        (False, 2, 7, 13, 2, 16),
        (False, 1, 97, 1, 1, 24),
        (False, 1, 1, 113, 2, 32),
        (False, 1, 5, 7, 3, 96),
        (True, 2, 5, 7, 1, 16),
        (True, 1, 1, 9, 2, 24),
        (True, 1, 5, 3, 3, 96),
        pytest.param(False, 1, 25, 41, 1, 16, marks=slow),
        pytest.param(True, 1, 2, 97, 1, 24, marks=slow),
        pytest.param(True, 1, 2, 334, 2, 16, marks=slow),
        pytest.param(True, 1, 113, 3, 1, 24, marks=slow),
        pytest.param(True, 1, 9, 11, 20, 32, marks=slow),
    ],
)
def test_as_exact_as_the_plain_form(axial, batch, height, width, heads, dim, dtype):
    with use_backend('triton'):
        compare(axial, inputs(height, width, heads, dim, batch), dtype)


@pytest.mark.parametrize('axial', [False, True])
def test_channels_that_are_not_next_to_each_other(axial):
    q, k, v = (x.float() for x in inputs(3, 5, dim=16))
    scattered = [torch.stack((x, x), -1)[..., 0] for x in (q, k, v)]
    assert scattered[0].stride(-1) == 2
    tables = tables_of(3, 5, 2, 16, torch.float32)
    with use_backend('triton'):
        found, expected = masa(*scattered, tables, axial), masa(q, k, v, tables, axial)
    torch.testing.assert_close(found, expected)
