"""Position tables of MaSA: cache, and tables of wrappers and graphs."""

import pickle
import weakref

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from mmrest.ops import RelPos2d
from mmrest.ops.masa import decay
from mmrest.ops.rotary import Rotate
from tests.torch_versions import needs_torch

CPU = torch.device('cpu')


def test_tables_are_cached_for_one_size_and_device():
    rel_pos = RelPos2d(8, 4, 2, 6)
    first = rel_pos(3, 5, CPU)
    assert rel_pos(3, 5, CPU) is first
    assert rel_pos(5, 3, CPU) is not first
    assert rel_pos(5, 3, CPU).decay_h.shape == (4, 5, 5)
    assert rel_pos(5, 3, torch.device('meta')).cos_sin.device.type == 'meta'
    assert rel_pos(5, 3, CPU).cos_sin.device.type == 'cpu'


def test_tables_of_cuda_graphs_are_kept(monkeypatch):
    """Each replay reads them; copies have none."""
    rel_pos = RelPos2d(8, 4, 2, 6)
    as_new = pickle.dumps(rel_pos)
    captured = weakref.ref(rel_pos(3, 5, CPU).cos_sin)
    with monkeypatch.context() as graph:
        graph.setattr(decay, 'is_capturing', lambda device: True)
        rel_pos(3, 5, CPU)
    rel_pos(5, 3, CPU)
    assert captured() is not None
    assert pickle.dumps(rel_pos) == as_new


def test_tables_of_a_tracer_are_not_cached():
    rel_pos = RelPos2d(8, 4, 2, 6)
    with FakeTensorMode():
        assert type(rel_pos(3, 5, CPU).cos_sin) is FakeTensor
    assert type(rel_pos(3, 5, CPU).cos_sin) is torch.Tensor


def test_tables_that_a_wrapper_has_cast():
    """As FSDP casts the arguments of blocks to the dtype of their weights."""
    x = torch.randn(1, 3, 5, 4, 8).bfloat16().requires_grad_()
    cos_sin = RelPos2d(8, 4, 2, 6)(3, 5, CPU).cos_sin
    results = [Rotate.apply(x, given) for given in (cos_sin, cos_sin.bfloat16())]
    gradients = [torch.autograd.grad(result.sum(), x)[0] for result in results]
    for exact, rounded in (results, gradients):
        torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.05)


@needs_torch(2, 7, 'compiler that takes tables for constants')
def test_each_network_has_its_own_tables_in_graphs():
    """Dynamo keeps graphs by code, so that networks of the same sizes share them."""
    compiled = torch.compile(
        lambda rel_pos, x: x + rel_pos(2, 3, x.device).log_gamma, backend='eager', fullgraph=True
    )
    for b in (6, 9):
        rel_pos = RelPos2d(16, 2, 2, b)
        assert torch.equal(compiled(rel_pos, torch.zeros(2)), rel_pos(2, 3, CPU).log_gamma)
