"""MaSA, full and axial, against loops that compute one output token at a time."""

import functools
import math

import pytest
import torch

from mmrest.ops import (
    PositionTables,
    masa,
    masa_axial_reference,
    masa_full_reference,
    position_tables,
    use_backend,
)
from mmrest.ops.rotary import rotary_tables, rotate
from tests.ops.exactness import assert_as_exact, dot, kept_bytes, softmax, spread
from tests.torch_versions import FLOAT16, needs_torch

SIZES = [(7, 13), (5, 9), (1, 1), (1, 6), (4, 1)]
HALF = [FLOAT16, torch.bfloat16]
REFERENCE = {True: masa_axial_reference, False: masa_full_reference}


def attend(query, keys, values, decays):
    """Output of one token: softmax of the decayed logits, times the values."""
    scale = 1 / math.sqrt(len(query))
    weights = softmax([dot(query, key) * scale + decay for key, decay in zip(keys, decays)])
    return [dot(weights, channel) for channel in zip(*values)]


def rotated(x, frequencies):
    """Each pair of channels of (B, H, W, n, d) turned by position * frequency."""
    height, width = x.shape[1:3]
    angle = torch.arange(height * width, dtype=x.dtype)[:, None] * frequencies
    phase = torch.polar(torch.ones_like(angle), angle).view(height, width, 1, -1)
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * phase).flatten(-2)


def full_token_by_token(q, k, v, log_gamma):
    """Full MaSA of one map of one head, (H, W, d) in lists."""
    grid = [(y, x) for y in range(len(q)) for x in range(len(q[0]))]
    keys, values = ([row for rows in x for row in rows] for x in (k, v))

    def token(y, x):
        decays = [log_gamma * (abs(y - i) + abs(x - j)) for i, j in grid]
        return attend(q[y][x], keys, values, decays)

    return [[token(y, x) for x in range(len(q[0]))] for y in range(len(q))]


def axial_token_by_token(q, k, v, log_gamma):
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


def token_by_token(axial, q, k, v, gamma):
    """MaSA of (B, H, W, n, d) by the equations, in floats."""
    loop = axial_token_by_token if axial else full_token_by_token
    maps = [x.permute(0, 3, 1, 2, 4).tolist() for x in (q, k, v)]
    out = [[loop(*head, math.log(g)) for *head, g in zip(*image, gamma)] for image in zip(*maps)]
    return torch.tensor(out, dtype=v.dtype).permute(0, 2, 3, 1, 4)


def gammas(heads):
    return [1 - 2 ** -(2 + 4 * i / heads) for i in range(heads)]


def tables_of(height, width, heads, dim, dtype=torch.float64):
    log_gamma = torch.tensor(gammas(heads), dtype=torch.float64).log().to(dtype)
    return position_tables(frequencies_of(dim, dtype), log_gamma, height, width)


def frequencies_of(dim, dtype=torch.float64):
    return 10000 ** -torch.linspace(0, 1, dim // 2, dtype=dtype)


def inputs(height, width, heads=2, dim=4, batch=2, scale=1.0):
    q, k, v = (
        torch.randn(batch, height, width, heads, dim, dtype=torch.float64) for _ in range(3)
    )
    return scale * q, scale * k, v


@pytest.mark.parametrize('height, width', SIZES)
@pytest.mark.parametrize('axial', [False, True])
def test_agrees_with_the_equation(backend, axial, height, width):
    q, k, v = inputs(height, width)
    frequencies = frequencies_of(4)
    q_k = rotated(q, frequencies), rotated(k, frequencies)
    expected = token_by_token(axial, *q_k, v, gammas(2))
    found = masa(q, k, v, tables_of(height, width, 2, 4), axial)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize('axial', [False, True])
def test_without_decay(backend, axial):
    """With gamma = 1 every distance counts alike."""
    (q, k, v), frequencies = inputs(5, 3), frequencies_of(4)
    tables = position_tables(frequencies, torch.zeros(2, dtype=torch.float64), 5, 3)
    q_k = rotated(q, frequencies), rotated(k, frequencies)
    expected = token_by_token(axial, *q_k, v, [1.0, 1.0])
    torch.testing.assert_close(masa(q, k, v, tables, axial), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize('axial', [False, True])
def test_gradients(backend, axial):
    leaves = [t.requires_grad_() for t in inputs(2, 3, dim=2)]
    tables = tables_of(2, 3, 2, 2)
    # The interpreter is slow: a product with the whole Jacobian, rather than its every element.
    assert torch.autograd.gradcheck(
        lambda *t: masa(*t, tables, axial), leaves, fast_mode=backend == 'triton'
    )


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, *HALF])
@pytest.mark.parametrize(
    'batch, height, width, heads, dim',
    [
        (2, 7, 13, 2, 16),
        (1, 1, 97, 4, 32),
        (1, 113, 3, 1, 24),
        (2, 5, 7, 3, 96),
        (1, 9, 11, 20, 32),
        (1, 2, 334, 2, 16),
    ],
)
@pytest.mark.parametrize('axial', [False, True])
def test_as_exact_as_the_reference(axial, batch, height, width, heads, dim, dtype):
    compare(axial, inputs(height, width, heads, dim, batch), dtype)


@pytest.mark.parametrize(
    'batch, heads, elements',
    # A head's map whole, and two of its image rows at a time, of which the last one is small.
    [(1, 1, 2**20), (1, 1, 2**15), (2, 3, 2**18), (2, 2, 2**15)],
)
def test_full_maps_in_blocks(batch, heads, elements, monkeypatch):
    monkeypatch.setattr('mmrest.ops.blocks.CPU_BLOCK_ELEMENTS', elements)
    compare(False, inputs(17, 29, heads, 16, batch), torch.float32)


@pytest.mark.parametrize('dtype', [torch.float32, *HALF])
@pytest.mark.parametrize('axial', [False, True])
def test_logits_whose_exponentials_overflow(fused_backend, axial, dtype):
    q, k, v = inputs(7, 13, 2, 16, scale=7.0)
    assert torch.einsum('bhwnd,bijnd->bnhwij', q, k).max() / 16**0.5 > 89
    # The gradient of the values in torch's fused attention has 2.0 to 2.2 times the error.
    compare(axial, (q, k, v), dtype, 3.0 if axial and dtype is torch.float32 else 2.0)


def compare(axial, tensors, dtype, times=2.0):
    """The chosen form with parts of wider tensors, against the reference in every type."""
    height, width, heads, dim = tensors[0].shape[1:]
    # Those of a network are float32, for half types too.
    made_in = torch.promote_types(dtype, torch.float32)
    float32 = tables_of(height, width, heads, dim, made_in)
    float64 = PositionTables(*(table.double() for table in float32))

    def tables_for(tensor):
        return float64 if tensor.dtype is torch.float64 else float32

    def plain(q, k, v):
        return REFERENCE[axial](q, k, v, tables_for(q))

    def chosen(q, k, v):
        return masa(spread(q), spread(k), v, tables_for(q), axial)

    assert_as_exact(chosen, plain, tensors, dtype, times)


@pytest.mark.parametrize(
    'axial',
    [False, pytest.param(True, marks=needs_torch(2, 3, 'fused attention with a mask on a CPU'))],
)
def test_memory_grows_linearly(axial):
    """Four times as many tokens keep four times as much, the tables of positions included."""
    kept = []
    for side in (16, 32):
        run = functools.partial(masa, tables=tables_of(side, side, 2, 8), axial=axial)
        kept.append(kept_bytes(run, inputs(side, side, 2, 8, batch=1)))
    assert 0 < kept[1] <= 4.1 * kept[0]
    with use_backend('reference'):
        assert kept_bytes(run, inputs(32, 32, 2, 8, batch=1)) > 2 * kept[1]


@pytest.mark.parametrize('axial', [False, True])
@pytest.mark.parametrize(
    'scatter',
    [
        lambda x: torch.stack((x, x), -1)[..., 0],
        lambda x: torch.cat((x, x[..., :1]), -1)[..., :-1],
        lambda x: x.transpose(1, 3).contiguous().transpose(1, 3),
        lambda x: torch.cat((x.flatten()[:1], x.flatten()))[1:].view_as(x),
    ],
    ids=['channels apart', 'tokens an odd number apart', 'transposed', 'an odd start'],
)
def test_inputs_in_other_places(backend, axial, scatter):
    q, k, v = (x.float() for x in inputs(3, 5, dim=16))
    scattered = [scatter(x).requires_grad_() for x in (q, k, v)]
    assert all(torch.equal(a, b) for a, b in zip(scattered, (q, k, v)))
    tables = tables_of(3, 5, 2, 16, torch.float32)
    found, expected = masa(*scattered, tables, axial), masa(q, k, v, tables, axial)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert all(leaf.grad.isfinite().all() for leaf in scattered)


@pytest.mark.parametrize('axial', [False, True])
@pytest.mark.parametrize('loss', [torch.sum, lambda out: out.square().sum()])
def test_no_second_derivative(fused_backend, axial, loss):
    """The fused forms have none, and raise instead of giving a wrong one."""
    q, k, v = (t.requires_grad_() for t in inputs(2, 3))
    out = masa(q, k, v, tables_of(2, 3, 2, 4), axial)
    with pytest.raises(RuntimeError, match=r'no second derivative|not implemented'):
        torch.autograd.grad(loss(out), q, create_graph=True)[0].square().sum().backward()


@pytest.mark.parametrize('axial', [False, True])
def test_autocast_leaves_rotation_decay_and_softmax_alone(fused_backend, axial):
    tensors = [t.bfloat16() for t in inputs(7, 5, 2, 16)]
    run = functools.partial(masa, tables=tables_of(7, 5, 2, 16, torch.float32), axial=axial)
    plain = [t.detach().clone().requires_grad_() for t in tensors]
    cast = [t.detach().clone().requires_grad_() for t in tensors]
    run(*plain).float().sum().backward()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        run(*cast).float().sum().backward()
    for a, b in zip(plain, cast):
        assert torch.equal(a.grad, b.grad)


def test_rotation_is_computed_in_the_tables_type():
    sin, cos = rotary_tables(torch.tensor([1.0]), 66_800)
    x = torch.randn(66_800, 2).half()
    turned = rotate(x, sin, cos)
    assert torch.equal(turned, rotate(x.float(), sin, cos).half())
