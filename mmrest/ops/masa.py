"""Manhattan self-attention of RMT, after the projections.

A token at (y, x) weighs one at (y', x') by ``gamma^(|y - y'| + |x - x'|)``. The released networks
add the logarithm of that decay to the logits before the softmax, and so do these functions.
Because the distance is a sum, the decay is kept as two small tables, one an axis.
"""

from typing import Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from .autocast import autocast_off
from .backend import Implementation, Operation, always, in_graph, refuse_in_graphs
from .blocked_full import masa_full_blocked
from .gpu import on_device_of, refuse_triton
from .positions import PositionTables
from .rotation import Rotate, rotate


def masa(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables, axial: bool) -> Tensor:
    """Manhattan self-attention (RMT, "Manhattan Self-Attention").

    Queries and keys are rotated by the angle of their token, then
    ``softmax(q k^T / sqrt(d) + log decay) v``. The full form goes over all tokens of the map. The
    axial one goes along the width and, on its result, along the height; the same queries and
    keys serve both ("Decomposed Manhattan Self-Attention").

    Rotation and softmax are computed in float32 at least.
    See :mod:`mmrest.ops.backend` for how the implementation is chosen.

    Args:
        q: queries, (B, H, W, n, d).
        k: keys, (B, H, W, n, d).
        v: values, (B, H, W, n, d_v).
        tables: of (H, W), as :func:`position_tables` makes them; they get no gradient.
        axial: along the two axes in turn, rather than over all tokens.

    Returns:
        (B, H, W, n, d_v), in the type of `v`.

    Raises:
        ValueError: a forced backend cannot run.
    """
    return (_axial if axial else _full)(q, k, v, tables)


def masa_full_reference(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables) -> Tensor:
    """Plain form of full :func:`masa`, with the whole maps and the decay in memory.

    The decay is kept as long as the tables are, as the released code keeps it for a stage.
    """
    q, k = _rotated(q, k, tables)
    decay = _full_decays.get(tables.decay_h)
    if decay is None:
        decay = _full_decay(tables)
        if not in_graph():
            _full_decays[tables.decay_h] = decay
    q, k, tokens = (x.flatten(1, 2).transpose(1, 2) for x in (q, k, v))  # B n HW d
    return _decayed_attention(q, k, tokens, decay).transpose(1, 2).reshape(v.shape)


_full_decays = WeakIdKeyDictionary()


def _full_decay(tables: PositionTables) -> Tensor:
    """Logarithm of the decay between all tokens, (n, H * W, H * W)."""
    decay = tables.decay_h[:, :, None, :, None] + tables.decay_w[:, None, :, None, :]
    tokens = decay.shape[1] * decay.shape[2]
    return decay.reshape(-1, tokens, tokens)


def masa_axial_reference(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables) -> Tensor:
    """Plain form of axial :func:`masa`, with all maps of an axis in memory."""
    q, k = _rotated(q, k, tables)
    q, k, v = (x.transpose(2, 3) for x in (q, k, v))  # B H n W d
    v = _decayed_attention(q, k, v, tables.decay_w)
    q, k, v = (x.permute(0, 3, 2, 1, 4) for x in (q, k, v))  # B W n H d
    return _decayed_attention(q, k, v, tables.decay_h).permute(0, 3, 1, 2, 4)


def _rotated(q: Tensor, k: Tensor, tables: PositionTables) -> Tuple[Tensor, Tensor]:
    """Rotated queries, and keys scaled and rotated, as the released code does it."""
    return _turned_by_tables(q, k * k.shape[-1] ** -0.5, tables)


def _turned_by_tables(q: Tensor, k: Tensor, tables: PositionTables) -> Tuple[Tensor, Tensor]:
    """Rotated queries and keys."""
    sin, cos = tables.sin[:, :, None], tables.cos[:, :, None]
    return rotate(q, sin, cos), rotate(k, sin, cos)


def _decayed_attention(q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> Tensor:
    """``softmax(q k^T + decay) v`` for (..., n, L, d) and (n, L, L).

    The decay is a float32 table, so that logits and softmax are at least float32 too.
    """
    attention = (q @ k.transpose(-2, -1) + decay).softmax(-1)
    return attention.to(v.dtype) @ v


def masa_axial_fused(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables) -> Tensor:
    """Axial :func:`masa` through torch's fused attention, which stores no map."""
    q, k = Rotate.apply(q, tables.turn), Rotate.apply(k, tables.turn)
    with autocast_off(q.device):
        return _axes(q, k, v, tables)


def _axes(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables) -> Tensor:
    """Axial attention of rotated queries and keys."""
    v = _fused_attention(q, k, v, tables.decay_w)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # B W H n d
    return _fused_attention(q, k, v, tables.decay_h).transpose(1, 2)


def masa_full_whole(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables) -> Tensor:
    """Full :func:`masa` of plain operations, which compilers and exporters take."""
    decay = _full_decay(tables)
    q, k = _turned_by_tables(q, k, tables)
    flat = (x.flatten(1, 2)[:, None] for x in (q, k, v))
    return _fused_attention(*flat, decay).reshape(v.shape)


def masa_axial_whole(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables) -> Tensor:
    """Axial :func:`masa` of plain operations, which compilers and exporters take."""
    q, k = _turned_by_tables(q, k, tables)
    return _axes(q, k, v, tables)


def masa_full_triton(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables) -> Tensor:
    """Full :func:`masa` in one kernel."""
    from .kernels.masa import full

    with on_device_of(q):
        return full(q, k, v, tables.turn, tables.log_gamma)


def masa_axial_triton(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables) -> Tensor:
    """Axial :func:`masa` in one kernel an axis, which reads the maps as they lie."""
    from .kernels.masa import axial

    with on_device_of(q):
        return axial(q, k, v, tables.turn, tables.log_gamma)


def _fused_attention(q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> Tensor:
    """``softmax(q k^T / sqrt(d) + decay) v`` along the third dimension of (B, P, L, n, d)."""
    mask = decay[None].to(q.dtype)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The same for (P, L, n, d), which is what torch's fused attention takes."""
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)

    if in_graph():  # where the number of samples may be a symbol
        return attend(*(x.flatten(0, 1) for x in (q, k, v))).unflatten(0, q.shape[:2])
    if len(q) == 1:
        return attend(q[0], k[0], v[0])[None]
    if q.device.type == 'cpu' and len(q) > 1:
        # To join the first two dimensions would copy all three maps where they are transposed.
        return torch.stack([attend(*sample) for sample in zip(q, k, v)])
    return attend(*(x.flatten(0, 1) for x in (q, k, v))).unflatten(0, q.shape[:2])


def _refuse_triton(q: Tensor, k: Tensor, v: Tensor, tables: PositionTables) -> Optional[str]:
    return refuse_triton(q, k, v)


_full = Operation(
    'full MaSA',
    [
        Implementation('triton', masa_full_triton, _refuse_triton),
        Implementation('torch', masa_full_blocked, refuse_in_graphs),
        Implementation('torch', masa_full_whole, always),
        Implementation('reference', masa_full_reference, always),
    ],
)
_axial = Operation(
    'axial MaSA',
    [
        Implementation('triton', masa_axial_triton, _refuse_triton),
        Implementation('torch', masa_axial_fused, refuse_in_graphs),
        Implementation('torch', masa_axial_whole, always),
        Implementation('reference', masa_axial_reference, always),
    ],
)
