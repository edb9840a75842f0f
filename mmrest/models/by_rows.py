"""Layers with a wide hidden map, computed some image rows at a time.

To write the hidden map of a large image to fresh memory, and to read it again, costs more than to
compute it. A few rows of it fit into the caches, and nothing of it has to be kept.
"""

from typing import Callable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

from ..ops import autocast_as_now, block_elements
from .lean import is_plain

LARGE_ELEMENTS = 2**22
"""Elements from which on a hidden map is computed by rows: 16 MB in float32."""

BLOCKS = 4
"""Size of a piece in blocks of attention maps, which are read more often."""


def by_rows(
    function: Callable[[Tensor], Tensor],
    layers: Sequence[nn.Module],
    x: Tensor,
    hidden: int,
    halo: int = 0,
) -> Tensor:
    """``function(x)``, some rows at a time where its hidden map is large.

    Autograd then keeps `x` alone, and the backward pass computes the function again.

    Args:
        function: from a map (B, H, W, C), which it does not change, to one of the same rows and
            columns; without random numbers.
        layers: whose parameters it uses.
        x: its argument.
        hidden: channels of its hidden map.
        halo: on how many rows of `x` above and below it a row of the result depends. Beyond the
            ends of the rows that it is given, the function takes zeros for hidden rows.
    """
    tokens = x.shape[0] * x.shape[1] * x.shape[2]
    if is_plain() or tokens * hidden < LARGE_ELEMENTS:
        return function(x)
    return _ByRows.apply(function, layers, _pieces(x, hidden, halo), x, *_parameters(layers))


class _Piece(NamedTuple):
    """What a piece of the result is made of.

    Attributes:
        samples: its samples.
        rows: its rows.
        needs: the rows of the argument on which they depend.
        inner: its rows, counted from the first of `needs`.
    """

    samples: slice
    rows: slice
    needs: slice
    inner: slice


def _pieces(x: Tensor, hidden: int, halo: int) -> List[_Piece]:
    """Pieces of several samples, or of some rows of one sample where one is large."""
    batch, height, width, _ = x.shape
    most = BLOCKS * block_elements(x.device)
    group = max(1, most // (height * width * hidden))
    step = max(1, most // (width * hidden))
    pieces = []
    for sample in range(0, batch, group):
        for start in range(0, height, step):
            end = min(start + step, height)
            low, high = max(start - halo, 0), min(end + halo, height)
            samples, inner = slice(sample, sample + group), slice(start - low, end - low)
            pieces.append(_Piece(samples, slice(start, end), slice(low, high), inner))
    return pieces


def _parameters(layers: Sequence[nn.Module]) -> Iterator[nn.Parameter]:
    for layer in layers:
        yield from layer.parameters()


class _ByRows(Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        function: Callable[[Tensor], Tensor],
        layers: Sequence[nn.Module],
        pieces: List[_Piece],
        x: Tensor,
        *_: nn.Parameter,  # which autograd has to know of
    ) -> Tensor:
        ctx.function, ctx.layers, ctx.pieces = function, layers, pieces
        ctx.autocast = autocast_as_now(x.device)
        ctx.save_for_backward(x)
        out: Optional[Tensor] = None
        for piece in pieces:
            with ctx.autocast():
                made = function(x[piece.samples, piece.needs])[:, piece.inner]
            if out is None:  # its type was not known
                out = made.new_empty(*x.shape[:3], made.shape[-1])
            out[piece.samples, piece.rows] = made
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_out: Tensor) -> Tuple[Optional[Tensor], ...]:
        (x,) = ctx.saved_tensors
        # Not from the saved tensors: hooks such as those of a checkpoint replace them.
        parameters = [each for each in _parameters(ctx.layers) if each.requires_grad]
        grad_x, *grads = (torch.zeros_like(each) for each in (x, *parameters))
        for piece in ctx.pieces:
            part = x[piece.samples, piece.needs].detach().requires_grad_()
            with torch.enable_grad(), ctx.autocast():
                made = ctx.function(part)[:, piece.inner]
            found = torch.autograd.grad(
                made, (part, *parameters), grad_out[piece.samples, piece.rows]
            )
            for total, grad in zip((grad_x[piece.samples, piece.needs], *grads), found):
                total += grad
        by_parameter = iter(grads)
        of_parameters = (
            next(by_parameter) if parameter.requires_grad else None
            for parameter in _parameters(ctx.layers)
        )
        return None, None, None, grad_x, *of_parameters
