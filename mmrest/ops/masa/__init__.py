"""Manhattan self-attention of RMT, after the projections.

A token at (y, x) weights a token at (y', x') by ``gamma^(|y - y'| + |x - x'|)``. Like the official
networks, these functions add the logarithm of this decay to the logits before the softmax. Because
the distance is a sum, the decay is stored as two small tables, one per axis.
"""

from functools import partial
from typing import Any, Optional, Tuple

from torch import Tensor, linspace, tensor

from ..blocks import refuse_unless_small
from ..dispatch import Implementation, Operation, refuse_in_graphs
from ..gpu import run_operator, triton_implementation
from ..trust import Candidate, filled
from .decay import PositionTables, position_tables
from .reference import masa_axial_reference, masa_full_reference
from .torch import masa_axial_fused, masa_axial_in_graphs, masa_full_blockwise, masa_full_in_graphs


def masa(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables, axial: bool) -> Tensor:
    """Compute RMT's Manhattan self-attention, ``softmax(q k^T / sqrt(d) + log decay) v``.

    Queries and keys are first rotated by the angle of their token. The full form attends over all
    tokens of the map. The axial form ("Decomposed Manhattan Self-Attention" in the paper) attends
    along the width and then along the height, with the same queries and keys.

    Rotation and softmax are computed in at least float32. See :mod:`mmrest.ops.dispatch` for how
    the implementation is chosen.

    Args:
        q: queries, (B, H, W, n, d).
        k: keys, (B, H, W, n, d).
        v: values, (B, H, W, n, d_v).
        tables: tables for (H, W) from :func:`mmrest.ops.position_tables`; they get no gradient.
        axial: attend along each axis in turn instead of over all tokens.

    Returns:
        (B, H, W, n, d_v), in the dtype of `v`.

    Raises:
        ValueError: the forced backend cannot run.
    """
    q, k = q.to(v.dtype), k.to(v.dtype)  # autocast computes a norm of them in float32
    return (_axial if axial else _full)(q, k, v, tables)


def _trial(height: int, width: int, q: Tensor, v: Tensor) -> Tuple[Any, ...]:
    """Return the arguments of a small case, see :class:`.Candidate`, on a map of some size."""
    dim, heads = q.shape[-1], 2
    pairs = linspace(1, 0, dim // 2, device=q.device)
    log_gamma = tensor([-0.3, -0.05], device=q.device)
    shape = 1, height, width, heads
    return (
        filled((*shape, dim), q, 0.7),
        filled((*shape, dim), q, 1.3),
        filled((*shape, v.shape[-1]), v, 2.9),
        position_tables(pairs, log_gamma, height, width),
    )


def _run_triton(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables, *, axial: bool) -> Tensor:
    return run_operator('masa', q, k, v, tables.cos_sin, tables.log_gamma, axial)


def _refuse_unless_small(q: Tensor, *_: Any) -> Optional[str]:
    height, width = q.shape[1:3]
    return refuse_unless_small(q, height * width)


# The trials span several tiles of the kernels, the last one partial.
_full_kernel = Candidate(
    partial(_run_triton, axial=False), masa_full_reference, partial(_trial, 6, 23)
)
_axial_kernel = Candidate(
    partial(_run_triton, axial=True), masa_axial_reference, partial(_trial, 3, 40)
)

_full = Operation(
    'full MaSA',
    [
        triton_implementation('full MaSA', 'masa', _full_kernel),
        Implementation('torch', masa_full_reference, _refuse_unless_small),
        Implementation('torch', masa_full_blockwise, refuse_in_graphs),
        Implementation('torch', masa_full_in_graphs),
        Implementation('reference', masa_full_reference),
    ],
)
_axial = Operation(
    'axial MaSA',
    [
        triton_implementation('axial MaSA', 'masa', _axial_kernel),
        Implementation('torch', masa_axial_fused, refuse_in_graphs),
        Implementation('torch', masa_axial_in_graphs),
        Implementation('reference', masa_axial_reference),
    ],
)
