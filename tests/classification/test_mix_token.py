"""The region that MixToken swaps."""

import functools

import numpy as np
import pytest
import torch

from mmrest.classification.mix_token import Box, draw_box, swap
from tests.models.networks import FAMILIES, tiny


def test_boxes_lie_in_the_grid_and_are_of_every_size():
    np.random.seed(0)
    boxes = [draw_box(7, 5) for _ in range(2000)]
    for box in boxes:
        assert 0 <= box.top <= box.bottom <= 7 and 0 <= box.left <= box.right <= 5
    assert {box.bottom - box.top for box in boxes} == set(range(7))
    assert {box.right - box.left for box in boxes} == set(range(5))
    rows = np.zeros(7)
    for box in boxes:
        rows[box.top : box.bottom] += 1
    assert rows.min() > 100  # no row is left out


def test_swap_takes_the_region_of_the_flipped_batch():
    x = torch.randn(3, 2, 16, 24)
    before = x.clone()
    mixed = swap(x, Box(top=0, bottom=1, left=1, right=3), cell=8)
    assert torch.equal(x, before)
    inside = torch.zeros(16, 24, dtype=torch.bool)
    inside[0:8, 8:24] = True
    assert torch.equal(mixed, torch.where(inside, x.flip(0), x))
    assert swap(x, Box(1, 1, 0, 3), cell=8) is x


def test_cells_that_the_border_cuts_off_are_swapped_too():
    x = torch.arange(2.0)[:, None, None, None].expand(2, 1, 9, 9)
    mixed = swap(x, Box(top=1, bottom=2, left=0, right=2), cell=8)
    assert mixed[0].sum() == 9 and mixed[1].sum() == 72


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('size', [(64, 64), (33, 70)])
def test_a_swap_of_everything_is_a_flip_of_the_batch(family, size):
    network = tiny(family).eval()
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        flipped = network(images.flip(0))
        mix = functools.partial(swap, box=Box(0, 3, 0, 3), cell=8)
        mixed = network(images, after_stem=mix)
    for a, b in zip(mixed, flipped):
        torch.testing.assert_close(a, b)
