"""EMSA and MaSA against the papers' equations, with decay and rotation written out."""

import math

import pytest
import torch

from mmrest.ops import emsa, masa, position_tables
from mmrest.ops.rotary import rotate
from tests.ops.attentions import emsa_inputs, frequencies_of, gammas, masa_inputs


def emsa_by_equation(q, k, v, weight=None, bias=None):
    """EMSA of (B, n, N, d): heads are mixed before the softmax, maps are normalised after it."""
    maps = torch.einsum('bhqd, bhkd -> bhqk', q, k) / math.sqrt(q.shape[-1])
    if weight is None:
        return torch.einsum('bhqk, bhkd -> bhqd', maps.softmax(-1), v)
    mixed = torch.einsum('gh, bhqk -> bgqk', weight[..., 0, 0], maps) + bias[:, None, None]
    maps = mixed.softmax(-1)
    deviations = maps - maps.mean((-2, -1), keepdim=True)
    variance = deviations.square().mean((-2, -1), keepdim=True)
    return torch.einsum('bhqk, bhkd -> bhqd', deviations / (variance + 1e-5).sqrt(), v)


@pytest.mark.parametrize('heads', [1, 2, 5])
@pytest.mark.parametrize('queries, keys', [(7 * 13, 2 * 4), (5 * 9, 5 * 9), (1, 1), (6, 1)])
def test_emsa(backend, heads, queries, keys):
    tensors = emsa_inputs(2, queries, keys, heads, 3)
    found = emsa(*tensors)
    torch.testing.assert_close(found, emsa_by_equation(*tensors), rtol=0, atol=1e-9)
    if heads > 1 and queries == keys == 1:  # no variance
        assert found.abs().max() == 0


def rotated(x, frequencies):
    """Each pair of channels of (B, H, W, n, d) rotated by position * frequency."""
    height, width = x.shape[1:3]
    angle = torch.arange(height * width, dtype=x.dtype)[:, None] * frequencies
    phase = torch.polar(torch.ones_like(angle), angle).view(height, width, 1, -1)
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * phase).flatten(-2)


def full_masa(q, k, v, log_gamma):
    """Softmax over all tokens (i, j), which decay with their Manhattan distance to (y, x)."""
    height, width = q.shape[1:3]
    y, x = torch.arange(height).view(-1, 1, 1, 1), torch.arange(width).view(-1, 1, 1)
    i, j = torch.arange(height).view(-1, 1), torch.arange(width)
    distance = (y - i).abs() + (x - j).abs()
    logits = torch.einsum('byxnd, bijnd -> bnyxij', q, k) / math.sqrt(q.shape[-1])
    logits = logits + log_gamma[:, None, None, None, None] * distance
    maps = logits.flatten(-2).softmax(-1).view_as(logits)
    return torch.einsum('bnyxij, bijnd -> byxnd', maps, v)


def axial_masa(q, k, v, log_gamma):
    """The same along each row, and then along each column."""
    rows = zip(*(x.split(1, dim=1) for x in (q, k, v)))
    v = torch.cat([full_masa(*row, log_gamma) for row in rows], 1)
    columns = zip(*(x.split(1, dim=2) for x in (q, k, v)))
    return torch.cat([full_masa(*column, log_gamma) for column in columns], 2)


# Without decay, gamma = 1, every distance counts alike.
@pytest.mark.parametrize('height, width, gamma', [
    *((*size, gammas(2)) for size in [(7, 13), (5, 9), (1, 1), (1, 6), (4, 1)]),
    (5, 3, [1.0, 1.0]),
])  # fmt: skip
@pytest.mark.parametrize('axial', [False, True])
def test_masa(backend, axial, height, width, gamma):
    q, k, v = masa_inputs(2, height, width, 2, 4)
    frequencies, log_gamma = frequencies_of(4), torch.tensor(gamma, dtype=q.dtype).log()
    by_equation = axial_masa if axial else full_masa
    expected = by_equation(rotated(q, frequencies), rotated(k, frequencies), v, log_gamma)
    tables = position_tables(frequencies, log_gamma, height, width)
    torch.testing.assert_close(masa(q, k, v, tables, axial), expected, rtol=0, atol=1e-9)


def test_rotation_is_computed_in_the_tables_type():
    tables = position_tables(torch.tensor([1.0]), torch.zeros(1), 200, 334)
    x = torch.randn(1, 200, 334, 1, 2).half()
    rotated = rotate(x, tables.cos_sin)
    assert torch.equal(rotated, rotate(x.float(), tables.cos_sin).half())
