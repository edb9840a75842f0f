"""Fixtures of the attention's tests: backends in turn, forced."""

import pytest

from mmrest.ops import use_backend

# PyTorch's form has all maps in one block, some rows of one (such as 2 of 7 at a time), or the map
# of one head or sample. Triton's interpreter takes a hundred times as long.
FUSED = [
    pytest.param(('triton', None), marks=pytest.mark.slow),
    ('torch', None),
    ('torch', 40),
    ('torch', 2400),
]


def in_turn(params):
    """Fixture that gives the names of backends, each with a number of elements of a block."""

    @pytest.fixture(params=params, ids=lambda param: f'{param[0]}-{param[1]}')
    def fixture(request, monkeypatch):
        name, block_elements = request.param
        if name == 'triton':
            pytest.importorskip('triton', '3.3')
        if block_elements == 'in graphs':
            monkeypatch.setattr('mmrest.ops.dispatch.is_compiling', lambda: True)
        elif block_elements is not None:
            monkeypatch.setattr('mmrest.ops.blocks.CPU_BLOCK_ELEMENTS', block_elements)
        with use_backend(name):
            yield name

    return fixture


backend = in_turn([*FUSED, ('torch', 'in graphs'), ('reference', None)])
fused_backend = in_turn(FUSED)
