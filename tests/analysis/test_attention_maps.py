"""Attention weights, exact for every kind of attention, and the decay of MaSA."""

from itertools import product

import pytest
import torch

from mmrest import RMT, ResT
from mmrest.analysis.attention_maps import attention_maps, attention_of, decays, token_weights
from mmrest.models.rest import EMSA
from mmrest.models.rmt import MaSA
from mmrest.ops import BACKENDS, RelPos2d, masa, use_backend
from tests.models.networks import FAMILIES, randomised, tiny

HEIGHT, WIDTH = 5, 6
FORMS = ['full', 'axial', 'emsa', 'emsa of one head', 'emsa without reduction']


def attention(form):
    """Return an attention, its inputs, and its values by token."""
    x = torch.randn(2, HEIGHT, WIDTH, 12)
    if form.startswith('emsa'):
        heads = 1 if 'one head' in form else 3
        module = randomised(EMSA(12, heads, 1 if 'without' in form else 2))
        return module, (x,), module.projected(x)[2]
    module = randomised(MaSA(12, 3, axial=form == 'axial', lce=True))
    tables = RelPos2d(4, 3, 1, 3)(HEIGHT, WIDTH, x.device)
    return module, (x, tables), module.projected(x)[2].flatten(1, 2).transpose(1, 2)


def result(module, inputs):
    """Return the attention's output for every token, (B, n, H, W, d)."""
    q, k, v = module.projected(inputs[0])
    if isinstance(module, EMSA):
        return module.attended(q, k, v).unflatten(2, (HEIGHT, WIDTH))
    return masa(q, k, v, inputs[1], module.axial).permute(0, 3, 1, 2, 4)


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('backend', BACKENDS[1:])
def test_weights_times_values(form, backend):
    """The product is the reference's output for every token; sums are 1, or 0 after a norm."""
    module, inputs, values = attention(form)
    total = 0 if isinstance(module, EMSA) and module.transform_conv is not None else 1
    with torch.no_grad(), use_backend('reference'):
        expected = result(module, inputs)
    for row, column in product(range(HEIGHT), range(WIDTH)):
        with use_backend(backend):
            weights = token_weights(module, inputs, (row, column))
        found = (weights.flatten(2)[:, :, None] @ values)[:, :, 0]
        torch.testing.assert_close(found, expected[:, :, row, column], rtol=1e-4, atol=1e-4)
        sums = weights.sum((2, 3))
        torch.testing.assert_close(sums, torch.full_like(sums, total), rtol=0, atol=1e-4)


@pytest.mark.parametrize('family', FAMILIES)
def test_maps_of_a_network(family):
    """Each is from the selected block, over the keys of its stage; no hook remains."""
    network = randomised(tiny(family)).eval()
    image = torch.randn(1, 3, 64, 96)
    found = attention_maps(network, image, {1: 1, 3: 0}, (40, 50))
    assert list(found) == [1, 3] and not any(m._forward_pre_hooks for m in network.modules())
    seen = {}
    module = attention_of(network.blocks(1)[1])
    with torch.no_grad(), use_backend('reference'):
        handle = module.register_forward_pre_hook(lambda _, args: seen.update(args=args))
        network(image)
        handle.remove()
    expected = token_weights(module, seen['args'], (5, 6))[0]
    assert found[1].token == (5, 6) and found[1].size == (8, 12)
    torch.testing.assert_close(found[1].weights, expected, rtol=1e-3, atol=1e-4)
    keys = {ResT: (2, 3), RMT: (8, 12)}[family]
    assert found[1].weights.shape == (2, *keys) and found[3].weights.shape[1:] == (2, 3)
    assert found[1].kind == {ResT: 'EMSA', RMT: 'axial MaSA'}[family]
    assert found[3].kind == {ResT: 'EMSA', RMT: 'full MaSA'}[family]


@pytest.mark.parametrize('arch', RMT.archs)
def test_decay(arch):
    """Gamma to the power of the Manhattan distance, on the grid of the maps."""
    with torch.device('meta'):
        network = RMT(arch, out_indices=tuple(range(len(RMT.archs[arch].dims)))).eval()
        maps = network(torch.zeros(1, 3, 97, 130))
    found = decays(network, 97, 130, (50, 129))
    assert [each.axial for each in found] == list(network.arch.axial)
    for stage, (gamma, weights, (row, column), _) in enumerate(found):
        heads, b = network.arch.num_heads[stage], network.arch.decay_b[stage]
        expected = 1 - 2 ** (-2 - (b - 2) * torch.arange(heads) / heads)
        torch.testing.assert_close(gamma, expected)
        height, width = weights.shape[1:]
        assert (height, width) == maps[stage].shape[2:]
        assert (row, column) == (50 * height // 97, width - 1)
        down, across = (torch.arange(height) - row).abs(), (torch.arange(width) - column).abs()
        distance = down[:, None] + across
        torch.testing.assert_close(weights, gamma[:, None, None] ** distance)


def test_decay_of_fewer_stages():
    network = RMT('t', out_indices=(0, 1))
    assert len(decays(network, 64, 64, (3, 3))) == 2
    with pytest.raises(ValueError, match=r'pixel \(-1, 3\) is outside the image of 64 x 64'):
        decays(network, 64, 64, (-1, 3))
