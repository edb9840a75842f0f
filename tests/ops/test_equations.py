"""EMSA and MaSA against loops over floats that compute one output token at a time."""

import math

import pytest
import torch

from mmrest.ops import emsa, masa, position_tables
from mmrest.ops.rotary import rotary_tables, rotate
from tests.ops.attentions import emsa_inputs, frequencies_of, gammas, masa_inputs


def dot(a, b):
    return math.fsum(x * y for x, y in zip(a, b))


def softmax(logits):
    largest = max(logits)
    powers = [math.exp(logit - largest) for logit in logits]
    total = math.fsum(powers)
    return [power / total for power in powers]


def emsa_of_image(q, k, v, weight=None, bias=None):
    """EMSA of one image, (n, N, d) in lists."""
    logits = [
        [[dot(query, key) / math.sqrt(len(query)) for key in keys] for query in queries]
        for queries, keys in zip(q, k)
    ]
    if weight is not None:
        logits = [
            [[b + dot(w, across_heads) for across_heads in zip(*rows)] for rows in zip(*logits)]
            for w, b in zip(weight, bias)
        ]
    out = []
    for rows, values in zip(logits, v):
        attention = [softmax(row) for row in rows]
        mean, deviation = 0.0, 1.0
        if weight is not None:
            entries = [entry for row in attention for entry in row]
            mean = math.fsum(entries) / len(entries)
            variance = math.fsum((entry - mean) ** 2 for entry in entries) / len(entries)
            deviation = math.sqrt(variance + 1e-5)
        normed = [[(entry - mean) / deviation for entry in row] for row in attention]
        out.append([[dot(row, channel) for channel in zip(*values)] for row in normed])
    return out


@pytest.mark.parametrize('heads', [1, 2, 5])
@pytest.mark.parametrize('queries, keys', [(7 * 13, 2 * 4), (5 * 9, 5 * 9), (1, 1), (6, 1)])
def test_emsa(backend, heads, queries, keys):
    q, k, v, *mix = emsa_inputs(2, queries, keys, heads, 3)
    lists = [parameter.squeeze().tolist() for parameter in mix]
    images = zip(*(x.tolist() for x in (q, k, v)))
    expected = torch.tensor([emsa_of_image(*image, *lists) for image in images], dtype=q.dtype)
    found = emsa(q, k, v, *mix)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    if heads > 1 and queries == keys == 1:  # no variance
        assert found.abs().max() == 0


def rotated(x, frequencies):
    """Each pair of channels of (B, H, W, n, d) rotated by position * frequency."""
    height, width = x.shape[1:3]
    angle = torch.arange(height * width, dtype=x.dtype)[:, None] * frequencies
    phase = torch.polar(torch.ones_like(angle), angle).view(height, width, 1, -1)
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * phase).flatten(-2)


def attend(query, keys, values, decays):
    """Output of one token: softmax of the decayed logits, times the values."""
    scale = 1 / math.sqrt(len(query))
    weights = softmax([dot(query, key) * scale + decay for key, decay in zip(keys, decays)])
    return [dot(weights, channel) for channel in zip(*values)]


def full_masa_of_head(q, k, v, log_gamma):
    """Full MaSA of one map of one head, (H, W, d) in lists."""
    grid = [(y, x) for y in range(len(q)) for x in range(len(q[0]))]
    keys, values = ([row for rows in x for row in rows] for x in (k, v))

    def token(y, x):
        decays = [log_gamma * (abs(y - i) + abs(x - j)) for i, j in grid]
        return attend(q[y][x], keys, values, decays)

    return [[token(y, x) for x in range(len(q[0]))] for y in range(len(q))]


def axial_masa_of_head(q, k, v, log_gamma):
    """Axial MaSA of one map of one head: along each row and then along each column."""

    def line(queries, keys, values):
        positions = range(len(queries))
        return [
            attend(queries[i], keys, values, [log_gamma * abs(i - j) for j in positions])
            for i in positions
        ]

    rows = [line(*row) for row in zip(q, k, v)]
    columns = [line(*column) for column in zip(zip(*q), zip(*k), zip(*rows))]
    return list(zip(*columns))


# Without decay, gamma = 1, every distance counts alike.
@pytest.mark.parametrize('height, width, gamma', [
    *((*size, gammas(2)) for size in [(7, 13), (5, 9), (1, 1), (1, 6), (4, 1)]),
    (5, 3, [1.0, 1.0]),
])  # fmt: skip
@pytest.mark.parametrize('axial', [False, True])
def test_masa(backend, axial, height, width, gamma):
    q, k, v = masa_inputs(2, height, width, 2, 4)
    frequencies, logs = frequencies_of(4), [math.log(g) for g in gamma]
    loop = axial_masa_of_head if axial else full_masa_of_head
    maps = (rotated(q, frequencies), rotated(k, frequencies), v)
    images = zip(*(x.permute(0, 3, 1, 2, 4).tolist() for x in maps))
    expected = [[loop(*head, log) for *head, log in zip(*image, logs)] for image in images]
    expected = torch.tensor(expected, dtype=q.dtype).permute(0, 2, 3, 1, 4)
    tables = position_tables(frequencies, torch.tensor(logs, dtype=q.dtype), height, width)
    torch.testing.assert_close(masa(q, k, v, tables, axial), expected, rtol=0, atol=1e-9)


def test_rotation_is_computed_in_the_tables_type():
    sin, cos = rotary_tables(torch.tensor([1.0]), 66_800)
    x = torch.randn(66_800, 2).half()
    rotated = rotate(x, sin, cos)
    assert torch.equal(rotated, rotate(x.float(), sin, cos).half())
