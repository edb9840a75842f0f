"""RMT's position tables, initialisation, switches and ablation networks."""

import pytest
import torch
from torch import nn

from mmrest import RMT
from mmrest.models.rmt import ARCHS, PatchEmbed, PatchMerging
from mmrest.ops import RelPos2d
from tests.models.networks import TINY, gradients, tiny

CPU = torch.device('cpu')


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


def test_official_tables_are_accepted():
    network = tiny(RMT)
    state = network.state_dict()
    for stage in range(4):
        state[f'layers.{stage}.Relpos.angle'] = torch.zeros(8)
        state[f'layers.{stage}.Relpos.decay'] = torch.zeros(4)
    network.load_state_dict(state, strict=True)


def test_layer_scale():
    assert (tiny(RMT).layers[2].blocks[0].gamma_2 == 0.5).all()
    assert ARCHS['t'].layer_scale == ARCHS['s'].layer_scale == (None,) * 4
    assert ARCHS['b'].layer_scale == ARCHS['l'].layer_scale == (None, None, 1e-6, 1e-6)


SMALL = dict(
    TINY['swin'],
    base='t',
    **dict.fromkeys(('lce', 'cpe', 'conv_ffn', 'conv_stem', 'conv_downsample'), True),
)
"""Two stages, the first one axial."""

SWITCHES = dict(
    decay=None, lce='lepe', cpe='pos', conv_ffn='dwconv', conv_stem='patch_embed',
    conv_downsample='downsample',
)  # fmt: skip
"""Of an arch, and the layers that each replaces or removes."""


@pytest.mark.parametrize('switch', SWITCHES)
def test_networks_without_one_part(switch):
    """No other part differs; for outputs of any size, see the networks without all of them."""
    network = RMT({**SMALL, switch: False})
    layers, all_layers = (
        {(name, parameter.shape) for name, parameter in each.named_parameters()}
        for each in (network, RMT(SMALL))
    )
    layer = SWITCHES[switch]
    assert bool(layers ^ all_layers) == (layer is not None)
    assert all(layer in name for name, _ in layers ^ all_layers)
    outputs, grads = gradients(network, torch.randn(2, 3, 41, 27))
    assert [output.shape[2:] for output in outputs] == [(11, 7), (6, 4)]
    assert None not in grads.values()


def test_gamma_is_one_without_decay():
    decayed, flat = (RelPos2d(8, 4, 2, 6, decay)(3, 5, CPU) for decay in (True, False))
    assert not flat.decay_h.any() and not flat.decay_w.any() and not flat.log_gamma.any()
    assert torch.equal(flat.cos_sin, decayed.cos_sin)
    for stage in RMT(dict(SMALL, decay=False)).layers:
        assert not stage.rel_pos(3, 5, CPU).log_gamma.any()


@pytest.mark.parametrize('size', [(4, 6), (5, 6), (4, 7), (1, 1), (3, 5)])
def test_patch_merging(size):
    """The four tokens of each square side by side, in Swin's order; zeros beyond the edges."""
    merging, x = PatchMerging(3, 8).double(), torch.randn(2, 3, *size, dtype=torch.float64)
    tokens = nn.functional.pad(x, (0, size[1] % 2, 0, size[0] % 2)).permute(0, 2, 3, 1)
    corners = [tokens[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
    expected = merging.reduction(merging.norm(torch.cat(corners, -1))).permute(0, 3, 1, 2)
    torch.testing.assert_close(merging(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize('has_norm', [True, False])
def test_patch_embedding(has_norm):
    """Patches are independent; zeros beyond the edges."""
    stem, image = PatchEmbed(3, 8, 4, has_norm).double(), torch.randn(1, 3, 7, 9).double()
    whole = nn.functional.pad(image, (0, 3, 0, 1))
    patches = nn.functional.unfold(whole, 4, stride=4)[0].T
    expected = patches @ stem.proj.weight.flatten(1).T + stem.proj.bias
    expected = stem.norm(expected) if has_norm else expected
    torch.testing.assert_close(stem(image)[0], expected.T.view(8, 2, 3))


@pytest.mark.parametrize('name, published', [
    ('swin_t', 28_288_354), ('swin_s', 49_606_258), ('deit_s', 22_050_664),
])  # fmt: skip
def test_parameters_of_ablation_networks(name, published):
    """Those of Swin and DeiT but for classifier, positions and class token, and output norms."""
    arch, is_deit = ARCHS[name], name == 'deit_s'
    assert arch.decay and (arch.decay_a, set(arch.decay_b)) == (2, {8})
    assert arch.axial == ((False,) if is_deit else (True, True, True, False))
    with torch.device('meta'):
        found = sum(parameter.numel() for parameter in RMT(name).parameters())
    classifier = 1000 * arch.dims[-1] + 1000
    if is_deit:
        positions, norms = (1 + 14 * 14 + 1) * 384, 0
    else:  # a table of 13 x 13 relative positions per head
        positions = sum(depth * 169 * n for depth, n in zip(arch.depths, arch.num_heads))
        norms = 2 * sum(arch.dims[:3])
    assert found == published - classifier - positions + norms
