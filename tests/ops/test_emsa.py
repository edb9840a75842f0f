"""EMSA against a loop that computes one output token at a time."""

import math

import pytest
import torch

from mmrest.ops import emsa


def emsa_token_by_token(q, k, v, mix_weight=None, mix_bias=None):
    batch, heads, queries, dim = q.shape
    keys = k.shape[2]
    out = torch.zeros(batch, heads, queries, v.shape[3], dtype=q.dtype)
    for b in range(batch):
        maps = [[] for _ in range(heads)]
        for i in range(queries):
            logits = [
                [float(q[b, h, i].dot(k[b, h, j])) / math.sqrt(dim) for j in range(keys)]
                for h in range(heads)
            ]
            if mix_weight is not None:
                logits = [
                    [
                        float(mix_bias[h])
                        + sum(float(mix_weight[h, g, 0, 0]) * logits[g][j] for g in range(heads))
                        for j in range(keys)
                    ]
                    for h in range(heads)
                ]
            for h in range(heads):
                powers = [math.exp(logit - max(logits[h])) for logit in logits[h]]
                maps[h].append([power / math.fsum(powers) for power in powers])
        for h in range(heads):
            mean, deviation = 0.0, 1.0
            if mix_weight is not None:
                entries = [entry for row in maps[h] for entry in row]
                mean = math.fsum(entries) / len(entries)
                variance = math.fsum((entry - mean) ** 2 for entry in entries) / len(entries)
                deviation = math.sqrt(variance + 1e-5)
            for i in range(queries):
                for j in range(keys):
                    out[b, h, i] += (maps[h][i][j] - mean) / deviation * v[b, h, j]
    return out


def inputs(heads, queries, keys, dim=3, dtype=torch.float64):
    q = torch.randn(2, heads, queries, dim, dtype=dtype)
    k = torch.randn(2, heads, keys, dim, dtype=dtype)
    v = torch.randn(2, heads, keys, dim, dtype=dtype)
    mix = ()
    if heads > 1:
        mix = (torch.randn(heads, heads, 1, 1, dtype=dtype), torch.randn(heads, dtype=dtype))
    return q, k, v, *mix


@pytest.mark.parametrize('heads', [1, 2, 5])
@pytest.mark.parametrize('queries, keys', [(7 * 13, 2 * 4), (5 * 9, 5 * 9), (1, 1), (6, 1)])
def test_agrees_with_the_equation(heads, queries, keys):
    tensors = inputs(heads, queries, keys)
    expected = emsa_token_by_token(*tensors)
    torch.testing.assert_close(emsa(*tensors), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize('heads, queries, keys', [(1, 5, 3), (3, 5, 3), (2, 1, 1)])
def test_gradients(heads, queries, keys):
    tensors = [t.requires_grad_() for t in inputs(heads, queries, keys, dim=2)]
    assert torch.autograd.gradcheck(emsa, tensors)


def test_map_of_one_element_gives_zero():
    assert emsa(*inputs(heads=2, queries=1, keys=1)).abs().max() == 0


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_types_stay_close_to_float32(dtype):
    tensors = inputs(4, 50, 12, dim=16, dtype=torch.float32)
    exact = emsa(*tensors)
    half = emsa(*(t.to(dtype) for t in tensors))
    assert half.dtype is dtype
    assert (half.float() - exact).abs().max() < 30 * torch.finfo(dtype).eps * exact.std()
