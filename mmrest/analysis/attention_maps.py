"""Attention weights of a query token, and the decay of MaSA."""

from contextlib import ExitStack
from typing import Any, Dict, List, Mapping, NamedTuple, Tuple, Union

import torch
from torch import Tensor, nn

from ..models.pyramid import PyramidBackbone
from ..models.rest import EMSA
from ..models.rmt import RMT, MaSA
from ..ops import masa

Token = Tuple[int, int]


class AttentionMap(NamedTuple):
    """Attention of one token.

    Attributes:
        weights: per head, over the key map, (n, h, w). They sum to 1 in MaSA and single-head EMSA,
            and to 0 in multi-head EMSA, because of its instance norm.
        token: row and column of the token in the query map.
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
    """Return the attention of one token in one block per stage, by stage.

    Args:
        backbone: ResT or RMT, in evaluation mode.
        image: normalised image, (1, 3, H, W).
        blocks: block of each stage, both counted from 0.
        point: row and column of a pixel covered by the token.
    """
    modules = {n: attention_of(backbone.blocks(n)[block]) for n, block in blocks.items()}
    inputs: Dict[nn.Module, Tuple[Any, ...]] = {}
    with ExitStack() as hooks, torch.no_grad():
        for module in modules.values():
            hooks.enter_context(module.register_forward_pre_hook(inputs.__setitem__))
        backbone(image)
    maps = {}
    for stage, module in modules.items():
        size = tuple(inputs[module][0].shape[1:3])
        token = token_at(point, image.shape[2:], size)
        weights = token_weights(module, inputs[module], token)[0]
        kind = 'EMSA'
        if isinstance(module, MaSA):
            kind = 'axial MaSA' if module.axial else 'full MaSA'
        maps[stage] = AttentionMap(weights, token, size, kind)
    return maps


def attention_of(block: nn.Module) -> Union[EMSA, MaSA]:
    """Return the attention of a block."""
    return next(module for module in block.modules() if isinstance(module, (EMSA, MaSA)))


def token_at(point: Token, image: Tuple[int, int], size: Tuple[int, int]) -> Token:
    """Return row and column of the token at the relative place of a pixel.

    Sizes are height and width: of the image in pixels, of the map in tokens. ValueError is raised
    for a pixel outside the image.
    """
    if not all(0 <= place < pixels for place, pixels in zip(point, image)):
        raise ValueError(f'pixel {tuple(point)} is outside the image of {image[0]} x {image[1]}')
    return tuple(place * tokens // pixels for place, tokens, pixels in zip(point, size, image))


def token_weights(attention: Union[EMSA, MaSA], inputs: Tuple[Any, ...], token: Token) -> Tensor:
    """Return the attention weights of one query token.

    The result is linear in the values, so its derivative gives the exact weights for every kind
    of attention. For axial MaSA they are the products of the weights along height and width. For
    EMSA they include head mixing and instance norm. Attention maps of other tokens are not
    materialised, unless the backend in use does so (see :mod:`mmrest.ops.dispatch`).

    Args:
        attention: a module.
        inputs: its arguments: a map (B, H, W, C) and, for MaSA, the position tables.
        token: row and column of the token.

    Returns:
        (B, n, h, w) over the map of the keys, which EMSA reduces.
    """
    x, *tables = inputs
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
        # One channel is enough, and no head reads the values of another.
        (grad,) = torch.autograd.grad(out[..., 0].sum(), values)
    if isinstance(attention, MaSA):
        return grad[..., 0].permute(0, 3, 1, 2)
    reduced = 1 if attention.sr is None else attention.sr.stride[0]
    return grad[..., 0].unflatten(-1, (-(-height // reduced), -(-width // reduced)))


class Decay(NamedTuple):
    """Decay of a stage for one token.

    Attributes:
        gamma: decay per step of each head, (n,).
        weights: ``gamma^(|y - y'| + |x - x'|)`` over the tokens (y', x'), (n, H, W). In an axial
            stage, this is the product of the decays along both axes.
        token: row and column (y, x).
        axial: True if the stage is decomposed along the axes.
    """

    gamma: Tensor
    weights: Tensor
    token: Token
    axial: bool


def decays(backbone: RMT, height: int, width: int, point: Token) -> List[Decay]:
    """Return the decay of each stage.

    Args:
        backbone: RMT, on any device, including meta.
        height: image height in pixels.
        width: image width in pixels.
        point: row and column of a pixel covered by the token.
    """
    stages = []
    for stage, stride in enumerate(backbone.arch.strides[: backbone.num_stages]):
        size = (-(-height // stride), -(-width // stride))
        tables = backbone.layers[stage].rel_pos(*size, torch.device('cpu'))
        row, column = token_at(point, (height, width), size)
        along_h, along_w = tables.decay_h[:, row, :, None], tables.decay_w[:, column, None, :]
        gamma, weights = tables.log_gamma.exp(), (along_h + along_w).exp()
        stages.append(Decay(gamma, weights, (row, column), backbone.arch.axial[stage]))
    return stages
