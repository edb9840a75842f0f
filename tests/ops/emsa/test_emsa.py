"""EMSA against a loop that computes one output token at a time, and its forms against another."""

import math

import pytest
import torch

from mmrest.ops import emsa, emsa_reference, use_backend
from mmrest.ops.emsa.torch import emsa_in_graphs
from tests.ops.exactness import assert_as_exact, dot, kept_bytes, softmax, spread
from tests.torch_versions import FLOAT16

HALF = [FLOAT16, torch.bfloat16]


def emsa_token_by_token(q, k, v, mix_weight=None, mix_bias=None):
    """EMSA of floats, one image at a time."""
    mix = () if mix_weight is None else (mix_weight[:, :, 0, 0].tolist(), mix_bias.tolist())
    images = zip(q.tolist(), k.tolist(), v.tolist())
    return torch.tensor([emsa_of_image(*image, *mix) for image in images], dtype=q.dtype)


def emsa_of_image(q, k, v, weight=None, bias=None):
    heads = range(len(q))
    logits = [
        [[dot(query, key) / math.sqrt(len(query)) for key in k[h]] for query in q[h]]
        for h in heads
    ]
    if weight is not None:
        logits = [
            [
                [bias[h] + dot(weight[h], across_heads) for across_heads in zip(*rows)]
                for rows in zip(*logits)
            ]
            for h in heads
        ]
    out = []
    for h in heads:
        attention = [softmax(row) for row in logits[h]]
        mean, deviation = 0.0, 1.0
        if weight is not None:
            entries = [entry for row in attention for entry in row]
            mean = math.fsum(entries) / len(entries)
            variance = math.fsum((entry - mean) ** 2 for entry in entries) / len(entries)
            deviation = math.sqrt(variance + 1e-5)
        normed = [[(entry - mean) / deviation for entry in row] for row in attention]
        out.append([[dot(row, channel) for channel in zip(*v[h])] for row in normed])
    return out


def inputs(heads, queries, keys, dim=3, dtype=torch.float64, batch=2, scale=1.0):
    q = scale * torch.randn(batch, heads, queries, dim, dtype=dtype)
    k = scale * torch.randn(batch, heads, keys, dim, dtype=dtype)
    v = torch.randn(batch, heads, keys, dim, dtype=dtype)
    mix = ()
    if heads > 1:
        mix = (torch.randn(heads, heads, 1, 1, dtype=dtype), torch.randn(heads, dtype=dtype))
    return q, k, v, *mix


@pytest.mark.parametrize('heads', [1, 2, 5])
@pytest.mark.parametrize('queries, keys', [(7 * 13, 2 * 4), (5 * 9, 5 * 9), (1, 1), (6, 1)])
def test_agrees_with_the_equation(backend, heads, queries, keys):
    tensors = inputs(heads, queries, keys)
    expected = emsa_token_by_token(*tensors)
    found = emsa(*tensors)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    if heads > 1 and queries == keys == 1:  # no variance
        assert found.abs().max() == 0


@pytest.mark.parametrize('heads, queries, keys', [(1, 5, 3), (3, 5, 3), (2, 1, 1)])
def test_gradients(backend, heads, queries, keys):
    tensors = [t.requires_grad_() for t in inputs(heads, queries, keys, dim=2)]
    # The interpreter is slow: a product with the whole Jacobian, rather than its every element.
    assert torch.autograd.gradcheck(emsa, tensors, fast_mode=backend == 'triton')


def fused(*tensors):
    """The chosen form, with the inputs as the modules give them: parts of wider tensors."""
    q, k, v, *mix = tensors
    return emsa(q.transpose(1, 2).contiguous().transpose(1, 2), spread(k), spread(v), *mix)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, *HALF])
@pytest.mark.parametrize(
    'batch, heads, queries, keys, dim',
    [
        (2, 1, 97, 7, 64),
        (1, 2, 113, 97, 16),
        (2, 3, 7, 7, 24),
        (1, 8, 334, 21, 96),
        (1, 20, 97, 13, 32),
        (1, 2, 1, 1025, 16),
        (1, 2, 1025, 1, 16),
    ],
)
def test_as_exact_as_the_reference(batch, heads, queries, keys, dim, dtype):
    tensors = inputs(heads, queries, keys, dim, batch=batch)
    assert_as_exact(fused, emsa_reference, tensors, dtype)


@pytest.mark.parametrize('dtype', [torch.float32, *HALF])
@pytest.mark.parametrize('scale', [1e-4, 6.0])
def test_flat_and_steep_maps(fused_backend, dtype, scale):
    """Nearly uniform maps, whose deviations are tiny, and logits whose exponentials overflow."""
    tensors = inputs(4, 50, 16, dim=16, scale=scale)
    assert scale < 1 or (tensors[0] @ tensors[1].mT).max() / 16**0.5 > 89
    assert_as_exact(fused, emsa_reference, tensors, dtype)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, *HALF])
@pytest.mark.parametrize('scale', [1e-4, 1.0, 7.0])
def test_form_for_graphs(scale, dtype):
    tensors = inputs(3, 97, 13, dim=24, scale=scale)[:4]  # a bias gets nothing but roundings
    assert_as_exact(emsa_in_graphs, emsa_reference, tensors, dtype)


@pytest.mark.parametrize('heads', [1, 4])
def test_memory_grows_linearly(heads):
    """Four times as many queries and keys keep four times as much; a map would be 16 times."""
    kept = [kept_bytes(emsa, inputs(heads, n, n // 4, dim=8, batch=1)) for n in (256, 1024)]
    assert 0 < kept[1] <= 4.1 * kept[0]
    with use_backend('reference'):
        assert kept_bytes(emsa, inputs(heads, 1024, 256, dim=8, batch=1)) > 4 * kept[1]


@pytest.mark.parametrize('loss', [torch.sum, lambda out: out.square().sum()])
def test_no_second_derivative(fused_backend, loss):
    """The fused forms have none, and raise instead of giving a wrong one."""
    q, *others = (t.requires_grad_() for t in inputs(2, 5, 3))
    with pytest.raises(RuntimeError, match=r"no second derivative: run it .*'reference'"):
        torch.autograd.grad(loss(emsa(q, *others)), q, create_graph=True)


@pytest.mark.parametrize('heads', [1, 4])
def test_autocast_leaves_softmax_and_norm_alone(fused_backend, heads):
    """With inputs that autocast has made half, in forward and backward."""
    tensors = [t.bfloat16() for t in inputs(heads, 50, 12, dim=16)]
    plain = [t.requires_grad_() for t in tensors]
    cast = [t.detach().clone().requires_grad_() for t in tensors]
    emsa(*plain).float().sum().backward()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        emsa(*cast).float().sum().backward()
    for a, b in zip(plain, cast):
        assert torch.equal(a.grad, b.grad)
