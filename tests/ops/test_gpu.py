"""Inputs that the Triton kernels refuse."""

import sys

import pytest
import torch

from mmrest.ops import emsa, gpu, masa, use_backend
from mmrest.ops.gpu import refuse_triton
from tests.ops.emsa.test_emsa import inputs
from tests.ops.masa.test_masa import inputs as maps
from tests.ops.masa.test_masa import tables_of

pytest.importorskip('triton', '3.3')


def refusal(*tensors):
    with use_backend('triton'):
        return refuse_triton(*tensors)


def test_not_on_the_cpu_unless_forced():
    q, k, v, *_ = inputs(2, 5, 3)
    assert 'the tensors are on cpu, and the kernels need' in refuse_triton(q, k, v)
    assert refusal(q, k, v) is None


def test_types():
    q, k, v, *_ = inputs(2, 5, 3)
    found = refusal(q, k.float(), v)
    assert found.startswith('the dtypes torch.float64, torch.float32 and torch.float64 differ')


def test_large_heads():
    q, k, v, *mix = inputs(2, 5, 3, dim=130)
    assert 'a head of 130 channels is larger than 128' in refusal(q, k, v)
    with use_backend('triton'), pytest.raises(ValueError, match="'triton' cannot run: a head of"):
        emsa(q, k, v, *mix)
    with use_backend('triton'), pytest.raises(ValueError, match="'triton' cannot run: a head of"):
        masa(*maps(2, 3, dim=130), tables_of(2, 3, 2, 130), axial=True)


def test_without_triton(monkeypatch):
    monkeypatch.setattr(gpu, '_triton_refusal', gpu._triton_refusal.__wrapped__)  # not remembered
    tensors = inputs(2, 5, 3)[:3]
    monkeypatch.setattr('triton.__version__', '3.2.0')
    assert refusal(*tensors) == 'Triton 3.2.0 is older than 3.3'
    monkeypatch.setitem(sys.modules, 'triton', None)
    assert refusal(*tensors) == 'Triton is not installed'


def test_graphs():
    seen = []

    def run(q, k, v):
        seen.append(refusal(q, k, v))
        return q

    torch.jit.trace(run, tuple(inputs(2, 5, 3)[:3]), check_trace=False)
    assert seen == ['the network is being compiled or exported']
