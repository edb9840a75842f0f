"""Layers with a wide hidden map, computed some image rows at a time.

To write the hidden map of a large image to fresh memory, and to read it again, costs more than to
compute it. A few rows of it fit into the caches, and nothing of it has to be kept.
"""

from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.func import functional_call

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
    is_replica = any(getattr(layer, '_is_replica', False) for layer in layers)
    # The copies that DataParallel makes hold no parameters.
    if is_plain() or is_replica or tokens * hidden < LARGE_ELEMENTS:
        return function(x)
    whole = _Whole(function, layers)
    return _ByRows.apply(whole, _pieces(x, hidden, halo), x, *whole.parameters())


class _Whole(nn.Module):
    """A function and its layers as a module, whose parameters can be exchanged."""

    def __init__(self, function: Callable[[Tensor], Tensor], layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


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


class _ByRows(Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, whole: _Whole, pieces: List[_Piece], x: Tensor, *parameters: Tensor
    ) -> Tensor:
        ctx.whole, ctx.pieces = whole, pieces
        ctx.autocast = autocast_as_now(x.device)
        ctx.save_for_backward(x, *parameters)
        out: Optional[Tensor] = None
        for piece in pieces:
            with ctx.autocast():
                made = whole(x[piece.samples, piece.needs])[:, piece.inner]
            if out is None:  # its type was not known
                out = made.new_empty(*x.shape[:3], made.shape[-1])
            out[piece.samples, piece.rows] = made
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_out: Tensor) -> Tuple[Optional[Tensor], ...]:
        x, *saved = ctx.saved_tensors
        names = [name for name, _ in ctx.whole.named_parameters()]
        # Leaves of their own, because the hooks of the parameters are for the whole gradients.
        parameters = [
            each.detach().requires_grad_(needed)
            for each, needed in zip(saved, ctx.needs_input_grad[3:])
        ]
        wanted = [parameter for parameter in parameters if parameter.requires_grad]
        # Many small sums in a half type would lose what each adds.
        totals = [_wide_zeros(each) for each in (x, *wanted)]
        for piece in ctx.pieces:
            part = x[piece.samples, piece.needs].detach().requires_grad_()
            with torch.enable_grad(), ctx.autocast():
                made = functional_call(ctx.whole, dict(zip(names, parameters)), (part,))
                made = made[:, piece.inner]
            grads = torch.autograd.grad(
                made,
                (part, *wanted),
                grad_out[piece.samples, piece.rows],
                allow_unused=True,
            )
            for total, grad in zip((totals[0][piece.samples, piece.needs], *totals[1:]), grads):
                if grad is not None:
                    total += grad
        grad_x, *sums = (total.to(each.dtype) for total, each in zip(totals, (x, *wanted)))
        found = iter(sums)
        of_parameters = (next(found) if each.requires_grad else None for each in parameters)
        return None, None, grad_x, *of_parameters


def _wide_zeros(like: Tensor) -> Tensor:
    return torch.zeros_like(like, dtype=torch.promote_types(like.dtype, torch.float32))
