"""The Triton kernels of MaSA, in Triton's interpreter."""

import pytest

from mmrest.ops import use_backend
from tests.ops.emsa.test_kernels import DTYPES
from tests.ops.masa.test_masa import compare, inputs

pytest.importorskip('triton', '3.3')

slow = pytest.mark.slow


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize(
    'axial, batch, height, width, heads, dim',
    [
        (False, 2, 7, 13, 2, 16),
        (False, 1, 5, 7, 1, 96),
        (True, 2, 2, 3, 1, 16),
        (True, 1, 1, 5, 2, 24),
        pytest.param(True, 2, 5, 7, 1, 16, marks=slow),
        pytest.param(False, 1, 97, 1, 1, 24, marks=slow),
        pytest.param(False, 1, 1, 113, 2, 32, marks=slow),
        pytest.param(False, 1, 5, 7, 3, 96, marks=slow),
        pytest.param(True, 1, 5, 3, 3, 96, marks=slow),
        pytest.param(False, 1, 25, 41, 1, 16, marks=slow),
        pytest.param(True, 1, 2, 97, 1, 24, marks=slow),
        pytest.param(True, 1, 2, 334, 2, 16, marks=slow),
        pytest.param(True, 1, 113, 3, 1, 24, marks=slow),
        pytest.param(True, 1, 9, 11, 20, 32, marks=slow),
    ],
)
def test_as_exact_as_the_reference(axial, batch, height, width, heads, dim, dtype):
    with use_backend('triton'):
        compare(axial, inputs(height, width, heads, dim, batch), dtype)
