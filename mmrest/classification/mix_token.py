"""MixToken: a region of the tokens of each image is taken from another one.

All Tokens Matter: Token Labeling for Training Better Vision Transformers (NeurIPS 2021,
https://arxiv.org/abs/2104.10858), section 3.2, as in the official code of RMT.
"""

import math
from typing import NamedTuple, Tuple

import numpy as np
from torch import Tensor


class Box(NamedTuple):
    """A region of a grid of tokens; `bottom` and `right` are exclusive."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def area(self) -> int:
        """Return the number of tokens."""
        return (self.bottom - self.top) * (self.right - self.left)


def sample_box(height: int, width: int) -> Box:
    """Sample the region that MixToken takes from the other image, with numpy's global generator.

    The sides are those of the grid times the root of a share that is uniform in [0, 1], rounded
    down to an even number of tokens; the centre is any token, and the region is cropped to the
    grid.

    Args:
        height: tokens.
        width: tokens.
    """
    side = math.sqrt(1 - np.random.beta(1, 1))
    (top, bottom), (left, right) = (
        _interval(np.random.randint(length), int(length * side) // 2, length)
        for length in (height, width)
    )
    return Box(top, bottom, left, right)


def _interval(centre: int, half: int, length: int) -> Tuple[int, int]:
    return max(centre - half, 0), min(centre + half, length)


def swap(x: Tensor, box: Box, cell: int = 1) -> Tensor:
    """Return a batch in which a region is replaced by that of the flipped batch.

    Args:
        x: maps (B, ..., H, W); not modified.
        box: the region, in cells.
        cell: height and width of a cell in `x`; the last ones may be cropped by its border.
    """
    if not box.area:
        return x
    rows = slice(box.top * cell, box.bottom * cell)
    columns = slice(box.left * cell, box.right * cell)
    mixed = x.clone()
    mixed[..., rows, columns] = x[..., rows, columns].flip(0)
    return mixed
