"""The Triton kernels of EMSA, in Triton's interpreter."""

import pytest
import torch

from mmrest.ops import emsa, emsa_reference, use_backend
from tests.ops.emsa.test_emsa import fused, inputs
from tests.ops.exactness import assert_as_exact

pytest.importorskip('triton', '3.3')

slow = pytest.mark.slow


DTYPES = [torch.float32, torch.bfloat16, *(pytest.param(t, marks=slow) for t in (
    torch.float64, torch.float16,
))]  # fmt: skip


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize(
    'batch, heads, queries, keys, dim',
    [
        (2, 3, 7, 1, 24),
        (1, 2, 97, 33, 16),
        (1, 1, 40, 33, 96),
        pytest.param(1, 2, 97, 113, 16, marks=slow),
        pytest.param(1, 2, 334, 7, 32, marks=slow),
        pytest.param(1, 2, 1, 1025, 16, marks=slow),
        pytest.param(1, 2, 1025, 1, 16, marks=slow),
        pytest.param(1, 3, 40, 33, 96, marks=slow),
        pytest.param(1, 20, 33, 7, 16, marks=slow),
        pytest.param(1, 8, 334, 21, 96, marks=slow),
        pytest.param(1, 2, 1025, 113, 64, marks=slow),
    ],
)
def test_as_exact_as_the_reference(batch, heads, queries, keys, dim, dtype):
    tensors = inputs(heads, queries, keys, dim, batch=batch)
    with use_backend('triton'):
        assert_as_exact(fused, emsa_reference, tensors, dtype)


def test_channels_that_are_not_next_to_each_other():
    q, k, v, *mix = inputs(2, 9, 5, dim=16, dtype=torch.float32)
    scattered = [torch.stack((x, x), -1)[..., 0] for x in (q, k, v)]
    assert scattered[0].stride(-1) == 2
    with use_backend('triton'):
        torch.testing.assert_close(emsa(*scattered, *mix), emsa(q, k, v, *mix))
