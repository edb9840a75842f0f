"""Fixtures of the attention's tests."""

import pytest

from mmrest.ops import use_backend

# The kernels of Triton run in its interpreter. PyTorch's form has all maps in one block, some rows
# of one, or some samples.
FUSED = [('triton', None), ('torch', None), ('torch', 40), ('torch', 1200)]


@pytest.fixture(params=[*FUSED, ('reference', None)], ids=lambda param: f'{param[0]}-{param[1]}')
def backend(request, monkeypatch):
    """Every backend in turn."""
    name, block_elements = request.param
    if name == 'triton':
        pytest.importorskip('triton')
    if block_elements is not None:
        monkeypatch.setattr('mmrest.ops.block.CPU_BLOCK_ELEMENTS', block_elements)
    with use_backend(name):
        yield name


@pytest.fixture
def fused_backend(backend):
    """Every backend but the plain form."""
    return backend


def pytest_generate_tests(metafunc):
    """Tests of the fused backends alone leave out the plain form."""
    if 'fused_backend' in metafunc.fixturenames:
        ids = [f'{name}-{block}' for name, block in FUSED]
        metafunc.parametrize('backend', FUSED, indirect=True, ids=ids)
