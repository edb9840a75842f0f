"""Manhattan self-attention of RMT, after the projections.

A token at (y, x) weights one at (y', x') by ``gamma^(|y - y'| + |x - x'|)``. The official
networks add the logarithm of that decay to the logits before the softmax, and so do these
functions. Because the distance is a sum, the decay is kept as two small tables, one per axis.
"""

from torch import Tensor

from ..dispatch import Implementation, Operation, always, refuse_in_graphs
from ..gpu import triton_implementation
from .reference import masa_axial_reference, masa_full_reference
from .tables import PositionTables
from .torch import masa_axial_fused, masa_axial_in_graphs, masa_full_blockwise, masa_full_in_graphs


def masa(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables, axial: bool) -> Tensor:
    """Return Manhattan self-attention (RMT, "Manhattan Self-Attention").

    Queries and keys are rotated by the angle of their token, then
    ``softmax(q k^T / sqrt(d) + log decay) v``. The full form attends over all tokens of the map.
    The axial one attends along the width and, on its result, along the height; the same queries
    and keys serve both ("Decomposed Manhattan Self-Attention").

    Rotation and softmax are computed in float32 at least.
    See :mod:`mmrest.ops.dispatch` for how the implementation is chosen.

    Args:
        q: queries, (B, H, W, n, d).
        k: keys, (B, H, W, n, d).
        v: values, (B, H, W, n, d_v).
        tables: for (H, W), from :func:`mmrest.ops.position_tables`; they get no gradient.
        axial: attend along the two axes in turn, rather than over all tokens.

    Returns:
        (B, H, W, n, d_v), in the type of `v`.

    Raises:
        ValueError: a forced backend cannot run.
    """
    return (_axial if axial else _full)(q, k, v, tables)


_full = Operation(
    'full MaSA',
    [
        triton_implementation('masa', 'masa_full_triton'),
        Implementation('torch', masa_full_blockwise, refuse_in_graphs),
        Implementation('torch', masa_full_in_graphs, always),
        Implementation('reference', masa_full_reference, always),
    ],
)
_axial = Operation(
    'axial MaSA',
    [
        triton_implementation('masa', 'masa_axial_triton'),
        Implementation('torch', masa_axial_fused, refuse_in_graphs),
        Implementation('torch', masa_axial_in_graphs, always),
        Implementation('reference', masa_axial_reference, always),
    ],
)
