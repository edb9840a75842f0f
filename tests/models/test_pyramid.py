"""Common behaviour of both families: sizes, modes, freezing, gradients, copies and dtypes."""

import copy
import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from mmrest import ResT
from mmrest.checkpoint import CheckpointError, Weights
from mmrest.models.layers import DropPath
from tests.models.networks import (
    FAMILIES,
    KINDS,
    TINY,
    families,
    family_of,
    gradients,
    official,
    randomised,
    tiny,
)
from tests.torch_versions import FLOAT16

SUBSETS = [s for n in range(1, 5) for s in itertools.combinations(range(4), n)]

every = pytest.mark.parametrize('kind', KINDS)
small_and_named = pytest.mark.parametrize(
    'kind, arch',
    [
        *((kind, None) for kind in KINDS),
        *(pytest.param(f, arch, marks=pytest.mark.slow) for f in FAMILIES for arch in f.archs),
    ],
)


@pytest.mark.parametrize('name, layers', [
    ('rest_lite', dict.fromkeys(
        ('stage4.0.attn.kv', 'patch_embed_4.conv', 'stage1.0.attn.sr'), 0.02)),
    ('rmt_t', {'layers.3.blocks.0.retention.q_proj': 0.02,
               'layers.3.blocks.0.retention.lepe.conv': 1 / math.sqrt(3 * 25)}),
])  # fmt: skip
def test_start_from_scratch(name, layers):
    """Standard deviations of weights; those of torch's own initialisation have biases."""
    network = official(name)
    network.init_weights()
    for layer, deviation in layers.items():
        layer = network.get_submodule(layer)
        assert layer.weight.std().item() == pytest.approx(deviation, rel=0.02)
        assert bool(layer.bias.any()) == (deviation != 0.02)
    for module in network.modules():
        if isinstance(module, (nn.LayerNorm, nn.BatchNorm2d)):
            assert (module.weight == 1).all() and (module.bias == 0).all()


@pytest.mark.parametrize('train', [True, False])
@small_and_named
def test_any_size(kind, arch, train):
    network = tiny(kind) if arch is None else kind(arch)
    for size in [(1, 1), (31, 33), (97, 131), (225, 225), (200, 333)]:
        outputs = network.train(train)(torch.randn(2, 3, *size))
        assert isinstance(outputs, tuple) and len(outputs) == len(network.out_channels)
        for output, channels, stride in zip(outputs, network.out_channels, network.out_strides):
            assert output.shape == (2, channels, *(math.ceil(side / stride) for side in size))
            assert output.isfinite().all()
    strides = {(0, 1): (4, 8), (0,): (16,)}.get(network.out_indices, (4, 8, 16, 32))
    assert (network.out_channels, network.out_strides) == (network.arch.dims, strides)


@pytest.mark.parametrize(
    'kind, out_indices',
    [(kind, s) for kind in KINDS for s in SUBSETS if s[-1] < len(TINY[kind]['dims'])],
)
def test_any_outputs(kind, out_indices):
    """out_indices do not change the outputs, and every parameter has a gradient.

    So it has after an inference, whose tensors are kept.
    """
    whole = randomised(tiny(kind)).eval()
    part = tiny(kind, out_indices=list(np.array(out_indices))).eval()
    assert part.out_indices == out_indices  # a list of NumPy's integers
    assert not part.load_state_dict(whole.state_dict(), strict=False).missing_keys
    x = torch.randn(2, 3, 40, 56)
    with torch.inference_mode():
        part(x)
    outputs, grads = gradients(part, x)
    for output, index in zip(outputs, out_indices):
        torch.testing.assert_close(output, whole(x)[index], rtol=0, atol=0)
    assert [name for name, grad in grads.items() if grad is None] == []
    assert part.out_channels == tuple(whole.out_channels[i] for i in out_indices)
    assert part.out_strides == tuple(whole.out_strides[i] for i in out_indices)


@families
def test_norms_in_path(family):
    """Those of outputs, as in the official RetinaNet, which does not normalise its first map."""
    network = randomised(tiny(family, out_indices=(1, 2, 3), norm_in_path=True)).double().eval()
    images = x = torch.randn(1, 3, 40, 56).double()
    expected = []
    for stage in range(4):
        x = network.embedding(stage)(x).permute(0, 2, 3, 1)
        inputs = network.block_inputs(stage, x)
        for block in network.blocks(stage):
            x = block(x, *inputs)
        x = network.output_norm(stage)(x) if stage > 0 else x
        expected.append(x := x.permute(0, 3, 1, 2))
    outputs, grads = gradients(network, images)
    for found, wanted in zip(outputs, expected[1:]):
        torch.testing.assert_close(found, wanted)
    assert [name for name, grad in grads.items() if grad is None] == []
    weights = Weights('all.pth', tiny(family).state_dict())
    refusal = '2 tensors of the file belong to layers that the model does not have'
    with pytest.raises(CheckpointError, match=refusal):
        network.fit(weights)
    for kept in ((1, 2, 3), (1, 2)):  # whose norms are outside the path; stages may be left out
        tiny(family, out_indices=kept).fit(weights)


@families
def test_output_norms_are_the_last_step(family):
    normed = randomised(tiny(family)).eval()
    bare = tiny(family, output_norms=False).eval()
    assert not bare.load_state_dict(normed.state_dict(), strict=False).missing_keys
    x = torch.randn(1, 3, 40, 56)
    for stage, (wanted, plain) in enumerate(zip(normed(x), bare(x))):
        found = normed.output_norm(stage)(plain.permute(0, 2, 3, 1))
        torch.testing.assert_close(found.permute(0, 3, 1, 2), wanted, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match='norm_in_path=True needs output_norms=True'):
        tiny(family, norm_in_path=True, output_norms=False)


@small_and_named
def test_with_cp_changes_nothing(kind, arch):
    arch = TINY[kind] if arch is None else arch
    plain, recomputing = (
        family_of(kind)(arch, drop_path_rate=0.5, with_cp=with_cp) for with_cp in (False, True)
    )
    recomputing.load_state_dict(randomised(plain).state_dict())
    x, results = torch.randn(4, 3, 40, 56), []
    for network in (plain, recomputing):
        torch.manual_seed(1)  # the same paths are dropped
        results.append((*gradients(network, x), dict(network.named_buffers())))
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    'kind, frozen_stages',
    [(kind, k) for kind in KINDS for k in range(-1, len(TINY[kind]['dims']) + 1)],
)
def test_frozen_parts_stay(kind, frozen_stages):
    network = randomised(tiny(kind, frozen_stages=frozen_stages)).eval().train()
    before = copy.deepcopy(network.state_dict())
    # The images have a gradient, so that there is a backward pass if all parameters are frozen.
    gradients(network, torch.randn(2, 3, 40, 56).requires_grad_())
    torch.optim.AdamW(network.parameters(), lr=0.1).step()
    parts = [network.embedding(0)] if frozen_stages >= 0 else []
    for stage in range(frozen_stages):
        parts += [network.embedding(stage), network.blocks(stage), network.output_norm(stage)]
    frozen = {module for part in parts for module in part.modules()}
    for name, tensor in network.state_dict(keep_vars=True).items():
        module = network.get_submodule(name.rpartition('.')[0])
        moved = not torch.equal(tensor, before[name])
        if module in frozen:
            assert not (moved or tensor.requires_grad or module.training), name
        elif not name.endswith('transform_conv.bias'):  # cancels in the softmax
            assert moved, name


@families
@pytest.mark.parametrize('kind', ['BN', 'SyncBN'])
def test_norm_eval(family, kind):
    network = tiny(family, norm_cfg=dict(type=kind, requires_grad=False), norm_eval=True)
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms and {isinstance(m, nn.SyncBatchNorm) for m in norms} == {kind == 'SyncBN'}
    assert not any(m.training for m in norms)  # as built
    assert not any(p.requires_grad for m in norms for p in m.parameters())
    network.eval().train()
    assert network.training and not any(m.training for m in norms)
    if kind == 'BN':  # SyncBN runs on accelerators alone
        before = copy.deepcopy(dict(network.named_buffers()))
        network(torch.randn(2, 3, 40, 56))
        for name, buffer in network.named_buffers():
            assert torch.equal(buffer, before[name]), name


@every
def test_copies_and_pickles(kind):
    """They hold none of the tables that a forward pass keeps."""
    network = randomised(tiny(kind)).eval()
    x, size = torch.randn(1, 3, 33, 47), len(pickle.dumps(network))
    expected = network(x)
    assert len(pickle.dumps(network)) == size
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        for output, other in zip(expected, twin(x)):
            assert torch.equal(output, other)


@every
@pytest.mark.parametrize('dtype', [FLOAT16, torch.bfloat16, torch.float64])
def test_types(kind, dtype):
    """Casting a network costs a few roundings of the dtype; ResT's norm magnifies them."""
    roundings = 40 if kind is ResT else 10
    network = randomised(tiny(kind)).eval()
    x = torch.randn(2, 3, 40, 56)
    narrow, wide = sorted((dtype, torch.float32), key=lambda t: -torch.finfo(t).eps)
    with torch.no_grad():
        expected = copy.deepcopy(network).to(wide)(x.to(wide))
        outputs = network.to(narrow)(x.to(narrow))
    factor = 10 if dtype is torch.float64 else 1  # float32 sees more of the magnification
    for output, exact in zip(outputs, expected):
        assert (output.dtype, exact.dtype) == (narrow, wide)
        error = (output.to(wide) - exact).square().mean().sqrt() / exact.std()
        assert error < factor * roundings * torch.finfo(narrow).eps


@every
@pytest.mark.parametrize('out_indices', [None, (0,)])
def test_drop_path_grows_linearly(kind, out_indices):
    """To the last block of the arch, whatever is built of it."""
    network = tiny(kind, drop_path_rate=0.4, out_indices=out_indices)
    stages, last = range(network.num_stages), sum(network.arch.depths) - 1
    rates = [b.drop_path.drop_prob for stage in stages for b in network.blocks(stage)]
    assert rates == pytest.approx([0.4 * i / last for i in range(len(rates))])


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
def test_drop_path_drops_random_samples(dtype):
    torch.manual_seed(0)
    x, layer = torch.rand(4000, 2, 3, 1, dtype=dtype).add(1).requires_grad_(), DropPath(0.3)
    dropped = layer(x)
    kept = dropped.detach().flatten(1).all(1)
    assert 0.67 < kept.double().mean() < 0.73
    scale = kept.view(-1, 1, 1, 1).double() / 0.7
    tolerance = dict(rtol=2 * torch.finfo(dtype).eps, atol=0)
    torch.testing.assert_close(dropped.double(), x * scale, **tolerance)
    (grad,) = torch.autograd.grad(dropped.sum(), x)
    torch.testing.assert_close(grad.double(), scale.expand(x.shape), **tolerance)
    assert layer.eval()(x) is x


@every
@pytest.mark.parametrize('batch, in_channels', [(2, 1), (2, 3), (0, 5)])
def test_norms_copy_nothing(kind, batch, in_channels):
    """Their inputs are contiguous, also behind images of one channel, whose layout is both.

    The outputs have their channels first, as mmcv's compiled ops need them.
    """
    network = tiny(kind, in_channels=in_channels).eval()
    seen = []
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    outputs = network(torch.randn(batch, in_channels, 40, 56))
    assert [len(output) for output in outputs] == [batch] * len(network.out_channels)
    assert seen and all(each.is_contiguous() for each in (*seen, *outputs))


@every
@pytest.mark.parametrize('shape', [(3, 40, 56), (1, 4, 40, 56)])
def test_other_shapes_are_refused(kind, shape):
    with pytest.raises(ValueError, match=r'expects images of shape \(B, 3, H, W\), got'):
        tiny(kind)(torch.randn(shape))


LOAD = dict(type='Pretrained', checkpoint='x.pth')


@families
@pytest.mark.parametrize('argument, value, message', [
    ('out_indices', (), r'choice of \(0, 1, 2, 3\), got \(\)'),
    ('out_indices', (0, 4), r'choice of \(0, 1, 2, 3\), got \(0, 4\)'),
    ('out_indices', (1, 0), r'ascending.*got \(1, 0\)'),
    ('out_indices', 3, r'got 3'),
    ('frozen_stages', 5, r'one of \(-1, 0, 1, 2, 3, 4\), got 5'),
    ('frozen_stages', True, r'one of \(-1, 0, 1, 2, 3, 4\), got True'),
    ('drop_path_rate', 1.0, r'in \[0, 1\), got 1.0'),
    ('in_channels', 0, r'positive integer, got 0'),
    ('norm_eval', 'no', "True or False, got 'no'"),
    ('with_cp', 1, 'True or False, got 1'),
    ('output_norms', 'no', "True or False, got 'no'"),
    ('norm_in_path', 0, 'True or False, got 0'),
    ('norm_cfg', 'BN', r"be a dict whose type.*got 'BN'"),
    ('norm_cfg', dict(type='BM'), "be .* an mmcv norm layer for maps: 'BN'.*'BM'"),
    ('norm_cfg', dict(type='LN'), "be a dict whose type is an mmcv norm layer.*'LN'"),
    ('norm_cfg', dict(type='GN'), "'GN' \\(with num_groups\\).*got {'type': 'GN'}"),
    ('init_cfg', ['x.pth'], r"be a dict .* got \['x\.pth'\]"),
    ('init_cfg', dict(checkpoint='x.pth'), "got {'checkpoint': 'x.pth'}"),
    ('init_cfg', dict(type='Pretrained'), 'checkpoint=PATH.* got .*Pretrained'),
    ('init_cfg', dict(LOAD, prefix=3), 'a string as prefix.* got .*3'),
    ('init_cfg', dict(LOAD, strict=True), "got {.*'strict': True"),
])  # fmt: skip
def test_bad_arguments_are_named(family, argument, value, message):
    with pytest.raises(ValueError, match=f'{argument} must.*{message}'):
        tiny(family, **{argument: value})


@every
def test_depth_of_parameters(kind):
    """It grows from the stem to the last block; output norms, and heads, are deepest."""
    network = tiny(kind)
    depth, depths = 0, sum(network.arch.depths) + 2
    expected = {network.output_norm(network.num_stages - 1): depths - 1}
    for stage in range(network.num_stages):
        # That of the first block, but for the stem.
        expected[network.embedding(stage)] = depth + (stage > 0)
        for block in network.blocks(stage):
            depth += 1
            expected[block] = depth
    names = {parameter: name for name, parameter in network.named_parameters()}
    for part, depth in expected.items():
        for parameter in part.parameters():
            name = f'backbone.{names[parameter]}'
            assert network.get_layer_depth(name, 'backbone.') == (depth, depths)
    assert network.get_layer_depth('rpn_head.rpn_conv.weight') == (depths - 1, depths)
