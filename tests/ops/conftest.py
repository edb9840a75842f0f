"""Fixtures of the attention's tests."""

import pytest

from mmrest.ops import BACKENDS, use_backend


@pytest.fixture(params=BACKENDS)
def backend(request):
    with use_backend(request.param):
        yield request.param


@pytest.fixture(params=[None, 40, 1200])
def block(request, monkeypatch):
    """All maps in one block, some rows of one, or some samples."""
    if request.param is not None:
        monkeypatch.setattr('mmrest.ops.block.CPU_BLOCK_ELEMENTS', request.param)
