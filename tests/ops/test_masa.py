"""MaSA, full and axial, against loops that compute one output token at a time."""

import math

import pytest
import torch

from mmrest.ops import decay_table, masa_axial, masa_full, rotary_tables, rotate

SIZES = [(7, 13), (5, 9), (1, 1), (1, 6), (4, 1)]


def attend(query, keys, values, decays):
    """Output of one token: softmax of the decayed logits, times the values."""
    logits = [float(query.dot(key)) + decay for key, decay in zip(keys, decays)]
    largest = max(logits)
    powers = [math.exp(logit - largest) for logit in logits]
    total = math.fsum(powers)
    return sum(power / total * value for power, value in zip(powers, values))


def full_token_by_token(q, k, v, gamma):
    _, heads, height, width, _ = q.shape
    grid = [(y, x) for y in range(height) for x in range(width)]
    out = torch.zeros_like(v)
    for b in range(q.shape[0]):
        for h in range(heads):
            for y, x in grid:
                out[b, h, y, x] = attend(
                    q[b, h, y, x],
                    [k[b, h, i, j] for i, j in grid],
                    [v[b, h, i, j] for i, j in grid],
                    [math.log(gamma[h]) * (abs(y - i) + abs(x - j)) for i, j in grid],
                )
    return out


def axial_token_by_token(q, k, v, gamma):
    _, heads, height, width, _ = q.shape
    out = torch.zeros_like(v)
    for b in range(q.shape[0]):
        for h in range(heads):
            log_gamma = math.log(gamma[h])
            for x in range(width):
                # What the attention along each row leaves in column x.
                column = [
                    attend(
                        q[b, h, i, x],
                        list(k[b, h, i]),
                        list(v[b, h, i]),
                        [log_gamma * abs(x - j) for j in range(width)],
                    )
                    for i in range(height)
                ]
                for y in range(height):
                    decays = [log_gamma * abs(y - i) for i in range(height)]
                    out[b, h, y, x] = attend(q[b, h, y, x], list(k[b, h, :, x]), column, decays)
    return out


def inputs(height, width, heads=2, dim=4, dtype=torch.float64):
    q, k, v = (torch.randn(2, heads, height, width, dim, dtype=dtype) for _ in range(3))
    gamma = [1 - 2 ** -(2 + 4 * i / heads) for i in range(heads)]
    log_gamma = torch.tensor([math.log(g) for g in gamma], dtype=torch.float64)
    return (q, k, v, decay_table(log_gamma, height), decay_table(log_gamma, width)), gamma


@pytest.mark.parametrize('height, width', SIZES)
@pytest.mark.parametrize(
    'masa, loop', [(masa_full, full_token_by_token), (masa_axial, axial_token_by_token)]
)
def test_agrees_with_the_equation(masa, loop, height, width):
    tensors, gamma = inputs(height, width)
    expected = loop(*tensors[:3], gamma)
    torch.testing.assert_close(masa(*tensors), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize('masa', [masa_full, masa_axial])
def test_gradients(masa):
    (q, k, v, *decays), _ = inputs(2, 3, dim=2)
    leaves = [t.requires_grad_() for t in (q, k, v)]
    assert torch.autograd.gradcheck(lambda *t: masa(*t, *decays), leaves)


@pytest.mark.parametrize('masa', [masa_full, masa_axial])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_types_stay_close_to_float32(masa, dtype):
    (q, k, v, *decays), _ = inputs(7, 13, dim=16, dtype=torch.float32)
    decays = [decay.float() for decay in decays]
    exact = masa(q, k, v, *decays)
    half = masa(*(t.to(dtype) for t in (q, k, v)), *decays)
    assert half.dtype is dtype
    assert (half.float() - exact).abs().max() < 30 * torch.finfo(dtype).eps * exact.std()


def test_decay_table():
    table = decay_table(torch.tensor([-0.5, -2.0]), 3)
    distance = torch.tensor([[0.0, 1, 2], [1, 0, 1], [2, 1, 0]])
    torch.testing.assert_close(table, torch.stack((-0.5 * distance, -2 * distance)))


def test_rotation_is_a_complex_product():
    frequencies = torch.tensor([1.0, 0.1, 0.01], dtype=torch.float64)
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    turned = rotate(x, *rotary_tables(frequencies, 5))
    angle = torch.arange(5, dtype=torch.float64)[:, None] * frequencies
    phase = torch.polar(torch.ones_like(angle), angle)
    expected = torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (3, 2))) * phase)
    torch.testing.assert_close(turned, expected.flatten(-2))


def test_rotation_is_computed_in_the_tables_type():
    sin, cos = rotary_tables(torch.tensor([1.0]), 66_800)
    x = torch.randn(66_800, 2).half()
    turned = rotate(x, sin, cos)
    assert torch.equal(turned, rotate(x.float(), sin, cos).half())
