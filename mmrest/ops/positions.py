"""What MaSA knows of positions: angles of rotation, and decays along the axes."""

from typing import NamedTuple, Tuple

import torch
from torch import Tensor


class PositionTables(NamedTuple):
    """Everything of MaSA that depends on positions alone; see :func:`position_tables`."""

    sin: Tensor  # H W d
    cos: Tensor  # H W d
    turn: Tensor  # H W d/2 2, real and imaginary part of cos + i sin
    decay_h: Tensor  # n H H, logarithms
    decay_w: Tensor  # n W W
    log_gamma: Tensor  # n


def position_tables(
    frequencies: Tensor, log_gamma: Tensor, height: int, width: int
) -> PositionTables:
    """Tables of a map of `height` x `width` tokens.

    Args:
        frequencies: radians a position, (d / 2,).
        log_gamma: logarithm of the decay a step of each head, (n,).
        height: rows.
        width: columns.
    """
    sin, cos = (
        t.unflatten(0, (height, width)) for t in rotary_tables(frequencies, height * width)
    )
    return PositionTables(
        sin,
        cos,
        torch.stack((cos[..., ::2], sin[..., ::2]), dim=-1),
        decay_table(log_gamma, height),
        decay_table(log_gamma, width),
        log_gamma,
    )


def decay_table(log_gamma: Tensor, length: int) -> Tensor:
    """Logarithm of the decay between the positions of one axis.

    Args:
        log_gamma: log(gamma) of each head, (n,).
        length: number of positions.

    Returns:
        (n, length, length), ``log_gamma * |i - j|``.
    """
    position = torch.arange(length, device=log_gamma.device)
    distance = (position[:, None] - position[None, :]).abs()
    return log_gamma[:, None, None] * distance


def rotary_tables(frequencies: Tensor, tokens: int) -> Tuple[Tensor, Tensor]:
    """Sine and cosine of ``position * frequency``.

    Args:
        frequencies: radians a position, (d / 2,).
        tokens: number of positions.

    Returns:
        Sine and cosine, (tokens, d) each: neighbouring channels share a frequency.
    """
    position = torch.arange(tokens, device=frequencies.device, dtype=frequencies.dtype)
    angle = position[:, None] * frequencies.repeat_interleave(2)
    return angle.sin(), angle.cos()
