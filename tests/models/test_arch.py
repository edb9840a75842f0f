"""Archs by name and by dict, and error messages."""

import dataclasses
import json

import pytest
import torch

from mmrest import RMT, ResT
from tests.models.networks import TINY, families


@families
def test_a_dict_of_the_fields_is_the_named_arch(family):
    for name, arch in family.archs.items():
        as_lists = json.loads(json.dumps(dataclasses.asdict(arch)))
        with torch.device('meta'):
            by_dict, by_name = family(as_lists), family(name)
        assert by_dict.arch == by_name.arch == arch
        shapes = [{n: t.shape for n, t in b.state_dict().items()} for b in (by_dict, by_name)]
        assert shapes[0] == shapes[1]


def test_fields_with_a_default_may_be_left_out():
    assert ResT(dict(dims=(8, 16, 24, 32), depths=(1, 1, 1, 1))).arch.num_heads == (1, 2, 4, 8)


@families
def test_dict_with_a_base(family):
    name, arch = next(iter(family.archs.items()))
    with torch.device('meta'):
        network = family(dict(base=name, depths=[1, 1, 2, 1], drop_path_rate=0.3))
    assert network.arch == dataclasses.replace(arch, depths=(1, 1, 2, 1), drop_path_rate=0.3)
    assert family.archs[name].depths != (1, 1, 2, 1)  # the arch itself stays
    with torch.device('meta'):
        assert family(dict(base=name)).arch == arch


def test_fewer_stages():
    network = ResT(
        dict(dims=[8, 16], depths=[1, 1], num_heads=[1, 2], sr_ratios=[2, 1]), out_indices=[1]
    )
    assert network.eval()(torch.randn(1, 3, 32, 32))[0].shape == (1, 16, 4, 4)
    assert 'norm.weight' in network.state_dict()  # the last stage of the arch
    assert ResT(dict(network.arch.__dict__)).out_indices == (0, 1)


INF, NAN = float('inf'), float('nan')


@pytest.mark.parametrize('family, arch, message', [
    (ResT, 'tiny', "arch: unknown name 'tiny'; choose one of 'lite', 'small', 'base', 'large'"),
    (RMT, 5, 'arch: expected a name or a dict of fields, got 5'),
    (RMT, dict(heads=(1,)), r"arch: unknown field 'heads' with value \(1,\); the fields are dims"),
    (RMT, dict(base='x'), "arch: unknown name 'x'; choose one of 't', 's', 'b', 'l', 'swin_t'"),
    (ResT, dict(base=['lite']), r"arch: unknown name \['lite'\]; choose one of 'lite'"),
    (RMT, dict(base='s', dims=(64, 128)), 'depths must have one entry per stage, 2 for'),
    (RMT, dict(cpe=0), 'arch: cpe must be True or False, got 0'),
    (RMT, dict(conv_stem=False, patch_size=0), 'patch_size must be a positive integer, got 0'),
    (RMT, dict(patch_size=16), 'set conv_stem=False for patch_size=16'),
    (RMT, dict(base='t', patch_norm=False), 'set conv_stem=False for .*patch_norm=False'),
    (RMT, dict(ffn_ratios=(4, NAN, 3, 3)), r'ffn_ratios\[1\] must be a positive number, got nan'),
    (RMT, dict(layer_scale=(None, None, NAN, 1.0)), r'layer_scale\[2\] must be a number or None'),
    (ResT, dict(mlp_ratio=INF), 'mlp_ratio must be a positive number, got inf'),
    (ResT, dict(dims=(8,)), 'arch: missing depths'),
    (ResT, dict(dims=(8,) * 5), r'arch: dims must list 1 to 4 stages, got \(8, 8, 8, 8, 8\)'),
    (ResT, dict(depths=(1, 2)), r'arch: depths must have one entry per stage, 4 for'),
    (ResT, dict(depths=(1, 0, 1, 1)), r'depths\[1\] must be a positive integer, got 0'),
    (ResT, dict(dims=(7, 16, 24, 32)), r'dims\[0\] must be even.*got 7'),
    (ResT, dict(num_heads=(1, 3, 3, 4)), r'dims\[1\]=16 is not divisible by num_heads\[1\]=3'),
    (ResT, dict(sr_ratios=(8, 3, 2, 1)), r'sr_ratios must be 1 or even, got \(8, 3, 2, 1\)'),
    (ResT, dict(drop_path_rate=1), r'drop_path_rate must be a number in \[0, 1\), got 1'),
    (RMT, dict(ffn_ratios=(0.01, 4, 3, 3)), r'ffn_ratios \(0.01, .* give no hidden channels'),
    (ResT, dict(mlp_ratio=0.01), r'mlp_ratio 0.01 gives no hidden channels for dims \(8, '),
    (RMT, dict(decay_a=1e-9), 'decay_a=1e-09 makes the first gamma 0'),
    (RMT, dict(decay_b=(1, 6, 6, 6)), 'decay_b must be at least decay_a=2, got'),
    (RMT, dict(axial=(1, 1, 0, 0)), r'axial\[0\] must be True or False, got 1'),
    (RMT, dict(dims=(10, 16, 24, 32), num_heads=(2, 2, 3, 4)),
        r'dims\[0\]=10 and num_heads\[0\]=2 give 5 channels per head'),
])  # fmt: skip
def test_errors_name_the_field(family, arch, message):
    if isinstance(arch, dict) and 'missing' not in message and 'base' not in arch:
        arch = {**TINY[family], **arch}
    with pytest.raises((ValueError, TypeError), match=message):
        family(arch)
