"""RMT's position tables and its start from scratch."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from mmrest import RMT
from mmrest.models.rmt import ARCHS, RelPos2d
from tests.models.networks import tiny

CPU = torch.device('cpu')


def test_tables_follow_the_formulas():
    tables = RelPos2d(head_dim=8, num_heads=4, a=2, b=6)(3, 5, CPU)
    frequencies = [10000 ** -(i / 3) for i in range(4)]
    for y in range(3):
        for x in range(5):
            angles = [(y * 5 + x) * frequencies[c // 2] for c in range(8)]
            assert tables.sin[y, x].tolist() == pytest.approx(
                [math.sin(a) for a in angles], abs=1e-5
            )
            assert tables.cos[y, x].tolist() == pytest.approx(
                [math.cos(a) for a in angles], abs=1e-5
            )
    for head in range(4):
        gamma = 1 - 2 ** (-2 - 4 * head / 4)
        assert float(tables.decay_w[head, 1, 4]) == pytest.approx(3 * math.log(gamma), rel=1e-5)
        assert float(tables.decay_h[head, 2, 0]) == pytest.approx(2 * math.log(gamma), rel=1e-5)


def test_tables_are_kept_for_one_size_and_device():
    rel_pos = RelPos2d(8, 4, 2, 6)
    first = rel_pos(3, 5, CPU)
    assert rel_pos(3, 5, CPU) is first
    assert rel_pos(5, 3, CPU) is not first
    assert rel_pos(5, 3, CPU).decay_h.shape == (4, 5, 5)
    assert rel_pos(5, 3, torch.device('meta')).sin.device.type == 'meta'
    assert rel_pos(5, 3, CPU).sin.device.type == 'cpu'


@pytest.mark.parametrize('cast', [nn.Module.half, nn.Module.double])
def test_tables_stay_float32(cast):
    network = cast(tiny(RMT)).eval()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        (tables,) = network.block_inputs(0, torch.randn(1, 5, 3, 8).half())
    assert {table.dtype for table in tables} == {torch.float32}
    torch.set_default_dtype(torch.float64)
    try:
        tables = RelPos2d(8, 4, 2, 6)(3, 5, CPU)
        assert {table.dtype for table in tables} == {torch.float32}
    finally:
        torch.set_default_dtype(torch.float32)


def test_tables_are_not_in_copies():
    network = tiny(RMT).eval()
    network(torch.randn(1, 3, 32, 32))
    assert network.layers[0].rel_pos._kept
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert not twin.layers[0].rel_pos._kept
    assert network.layers[0].rel_pos._kept


def test_tables_of_a_tracer_are_not_kept():
    rel_pos = RelPos2d(8, 4, 2, 6)
    with FakeTensorMode():
        assert type(rel_pos(3, 5, CPU).sin) is FakeTensor
    assert type(rel_pos(3, 5, CPU).sin) is torch.Tensor


def test_tables_are_not_in_the_state_dict():
    network = tiny(RMT).eval()
    before = set(network.state_dict())
    network(torch.randn(1, 3, 32, 32))
    assert set(network.state_dict()) == before
    assert not [name for name in before if 'rel' in name.lower()]


def test_released_tables_are_accepted():
    network = tiny(RMT)
    state = network.state_dict()
    for stage in range(4):
        state[f'layers.{stage}.Relpos.angle'] = torch.zeros(8)
        state[f'layers.{stage}.Relpos.decay'] = torch.zeros(4)
    network.load_state_dict(state, strict=True)


def test_start_from_scratch():
    network = RMT('t')
    network.init_weights()
    linear = network.layers[3].blocks[0].retention.q_proj
    assert linear.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert linear.bias.abs().max() == 0
    conv = network.layers[3].blocks[0].retention.lepe.conv
    assert conv.weight.std().item() == pytest.approx(1 / math.sqrt(3 * 25), rel=0.05)
    norm = network.extra_norms['3']
    assert (norm.weight == 1).all() and (norm.bias == 0).all()


def test_layer_scale():
    for name, first in (('t', None), ('b', 2)):
        with torch.device('meta'):
            network = RMT(name)
        scaled = {s for s in range(4) if hasattr(network.layers[s].blocks[0], 'gamma_1')}
        assert scaled == (set() if first is None else {2, 3})
        assert ARCHS[name].layer_scale[3] == (None if first is None else 1e-6)
    assert (tiny(RMT).layers[2].blocks[0].gamma_2 == 0.5).all()
