"""What a token attends to: the weights of an attention, and the decay that MaSA begins from."""

from typing import Any, Dict, List, Mapping, NamedTuple, Tuple, Union

import torch
from torch import Tensor, nn

from ..models.pyramid import PyramidBackbone
from ..models.rest import EMSA
from ..models.rmt import RMT, MaSA
from ..ops import masa

Token = Tuple[int, int]


class AttentionMap(NamedTuple):
    """How a token weighs others.

    Attributes:
        weights: of each head over the map of the keys, (n, h, w). Those of MaSA, and of an EMSA
            with one head, sum to 1 in each head; those of any other EMSA to 0, because its
            instance norm takes the mean away.
        token: row and column of the token in the map of the queries.
        size: rows and columns of that map.
        kind: 'full MaSA', 'axial MaSA' or 'EMSA'.
    """

    weights: Tensor
    token: Token
    size: Tuple[int, int]
    kind: str


def attention_maps(
    backbone: PyramidBackbone, image: Tensor, blocks: Mapping[int, int], point: Token
) -> Dict[int, AttentionMap]:
    """Weights of the attention in one block of each of some stages.

    Args:
        backbone: ResT or RMT, in evaluation mode.
        image: normalised, (1, 3, H, W).
        blocks: stage -> block, both counted from 0.
        point: row and column of a pixel; the token that covers it is looked at.

    Returns:
        Stage -> what its token attends to.
    """
    inputs: Dict[int, Tuple[Any, ...]] = {}
    modules = {
        stage: attention_of(backbone.blocks(stage)[block]) for stage, block in blocks.items()
    }

    def keep(stage: int) -> Any:
        return lambda module, args: inputs.setdefault(stage, args) and None

    handles = [module.register_forward_pre_hook(keep(stage)) for stage, module in modules.items()]
    try:
        with torch.no_grad():
            backbone(image)
    finally:
        for handle in handles:
            handle.remove()
    found = {}
    for stage, module in modules.items():
        size = tuple(inputs[stage][0].shape[1:3])
        token = token_at(point, image.shape[2:], size)
        weights = token_weights(module, inputs[stage], token)[0]
        found[stage] = AttentionMap(weights, token, size, _kind(module))
    return found


def attention_of(block: nn.Module) -> Union[EMSA, MaSA]:
    """The attention of a block."""
    return next(module for module in block.modules() if isinstance(module, (EMSA, MaSA)))


def token_at(point: Token, image: Tuple[int, int], size: Tuple[int, int]) -> Token:
    """The token that covers a pixel.

    Args:
        point: row and column of the pixel.
        image: height and width, pixels.
        size: rows and columns of tokens.
    """
    row, column = (place * tokens // pixels for place, tokens, pixels in zip(point, size, image))
    return row, column


def token_weights(attention: Union[EMSA, MaSA], inputs: Tuple[Any, ...], token: Token) -> Tensor:
    """Weights with which an attention adds the values up for one token.

    They are the derivative of its result with respect to the values, in which it is linear. That
    makes them exact for every form of it and whatever a head does after the softmax: of axial
    MaSA these are the products of the weights along the height and along the width, of EMSA what
    mix and instance norm leave. The maps of other tokens are never in memory where the chosen
    backend (see :mod:`mmrest.ops.dispatch`) keeps none.

    Args:
        attention: a module.
        inputs: what it is called with: a map (B, H, W, C) and, for MaSA, the position tables.
        token: row and column of the token.

    Returns:
        (B, n, h, w) over the map of the keys, which EMSA reduces.
    """
    x, tables = inputs[0], inputs[1:]
    height, width = x.shape[1:3]
    with torch.no_grad():
        q, k, v = attention.projected(x)
    values = torch.zeros_like(v).requires_grad_()
    row, column = token
    with torch.enable_grad():
        if isinstance(attention, MaSA):
            out = masa(q, k, values, *tables, attention.axial)[:, row, column]  # B n d
        else:
            out = attention.attended(q, k, values)[:, :, row * width + column]
        # One channel will do, and no head reads the values of another.
        (grad,) = torch.autograd.grad(out[..., 0].sum(), values)
    if isinstance(attention, MaSA):
        return grad[..., 0].permute(0, 3, 1, 2)
    reduced = 1 if attention.sr is None else attention.sr.stride[0]
    return grad[..., 0].unflatten(-1, (-(-height // reduced), -(-width // reduced)))


def _kind(attention: Union[EMSA, MaSA]) -> str:
    if isinstance(attention, EMSA):
        return 'EMSA'
    return 'axial MaSA' if attention.axial else 'full MaSA'


class Decay(NamedTuple):
    """The decay of a stage for one token.

    Attributes:
        gamma: of each head, the decay a step, (n,).
        weights: ``gamma^(|y - y'| + |x - x'|)`` over the tokens (y', x'), (n, H, W); RMT, the
            equation of the Manhattan decay matrix. An axial stage multiplies the two axes' decays,
            which gives the same.
        token: row and column (y, x).
        axial: whether the stage is decomposed along the axes.
    """

    gamma: Tensor
    weights: Tensor
    token: Token
    axial: bool


def decays(backbone: RMT, height: int, width: int, point: Token) -> List[Decay]:
    """Decay of every head and stage.

    Args:
        backbone: RMT, on any device, the meta device too.
        height: of the image, pixels.
        width: likewise.
        point: row and column of a pixel; the decay is that of the token that covers it.
    """
    found = []
    for stage, stride in enumerate(backbone.arch.strides):
        size = (-(-height // stride), -(-width // stride))
        tables = backbone.layers[stage].rel_pos(*size, torch.device('cpu'))
        row, column = token_at(point, (height, width), size)
        along_h, along_w = tables.decay_h[:, row, :, None], tables.decay_w[:, column, None, :]
        axial = backbone.arch.axial[stage]
        weights = along_h.exp() * along_w.exp() if axial else (along_h + along_w).exp()
        found.append(Decay(tables.log_gamma.exp(), weights, (row, column), axial))
    return found
