"""Manhattan self-attention of RMT, after the projections.

A token at (y, x) weighs one at (y', x') by ``gamma^(|y - y'| + |x - x'|)``. The released networks
add the logarithm of that decay to the logits before the softmax, and so do these functions.
Because the distance is a sum, the decay is kept as two small tables, one an axis.
"""

from torch import Tensor

from ..dispatch import Implementation, Operation, always, refuse_in_graphs
from ..gpu import on_device_of, refuse_triton
from .plain import masa_axial_reference, masa_full_reference
from .pytorch import masa_axial_fused, masa_axial_whole, masa_full_blocked, masa_full_whole
from .tables import PositionTables


def masa(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables, axial: bool) -> Tensor:
    """Manhattan self-attention (RMT, "Manhattan Self-Attention").

    Queries and keys are rotated by the angle of their token, then
    ``softmax(q k^T / sqrt(d) + log decay) v``. The full form goes over all tokens of the map. The
    axial one goes along the width and, on its result, along the height; the same queries and
    keys serve both ("Decomposed Manhattan Self-Attention").

    Rotation and softmax are computed in float32 at least.
    See :mod:`mmrest.ops.dispatch` for how the implementation is chosen.

    Args:
        q: queries, (B, H, W, n, d).
        k: keys, (B, H, W, n, d).
        v: values, (B, H, W, n, d_v).
        tables: of (H, W), as :func:`mmrest.ops.position_tables` makes them; they get no gradient.
        axial: along the two axes in turn, rather than over all tokens.

    Returns:
        (B, H, W, n, d_v), in the type of `v`.

    Raises:
        ValueError: a forced backend cannot run.
    """
    return (_axial if axial else _full)(q, k, v, tables)


def masa_full_triton(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables) -> Tensor:
    """Full :func:`masa` in one kernel."""
    from .kernels import full

    with on_device_of(q):
        return full(q, k, v, tables.cos_sin, tables.log_gamma)


def masa_axial_triton(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables) -> Tensor:
    """Axial :func:`masa` in one kernel an axis, which reads the maps as they lie."""
    from .kernels import axial

    with on_device_of(q):
        return axial(q, k, v, tables.cos_sin, tables.log_gamma)


_full = Operation(
    'full MaSA',
    [
        Implementation('triton', masa_full_triton, refuse_triton),
        Implementation('torch', masa_full_blocked, refuse_in_graphs),
        Implementation('torch', masa_full_whole, always),
        Implementation('reference', masa_full_reference, always),
    ],
)
_axial = Operation(
    'axial MaSA',
    [
        Implementation('triton', masa_axial_triton, refuse_triton),
        Implementation('torch', masa_axial_fused, refuse_in_graphs),
        Implementation('torch', masa_axial_whole, always),
        Implementation('reference', masa_axial_reference, always),
    ],
)
