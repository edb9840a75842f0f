"""Common behaviour of both families: sizes, modes, freezing, gradients, copies and dtypes."""

import copy
import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from mmrest import RMT, ResT
from mmrest.models import rest, rmt
from tests.models.networks import FAMILIES, KINDS, TINY, gradients, randomised, tiny
from tests.torch_versions import FLOAT16

SUBSETS = [s for n in range(1, 5) for s in itertools.combinations(range(4), n)]

both = pytest.mark.parametrize('family', FAMILIES)
every = pytest.mark.parametrize('kind', KINDS)


@every
@pytest.mark.parametrize('train', [True, False])
@pytest.mark.parametrize('size', [(1, 1), (31, 33), (97, 131), (225, 225), (200, 333)])
def test_any_size(kind, train, size):
    network = tiny(kind).train(train)
    outputs = network(torch.randn(2, 3, *size))
    assert isinstance(outputs, tuple) and len(outputs) == len(network.out_channels)
    for output, channels, stride in zip(outputs, network.out_channels, network.out_strides):
        assert output.shape == (2, channels, *(math.ceil(side / stride) for side in size))
        assert output.isfinite().all()
    strides = {'swin': (4, 8), 'deit': (16,)}.get(kind, (4, 8, 16, 32))
    assert (network.out_channels, network.out_strides) == (TINY[kind]['dims'], strides)


@pytest.mark.slow
@pytest.mark.parametrize('train', [True, False])
@pytest.mark.parametrize(
    'family, arch',
    [(f, arch) for f, archs in ((ResT, rest.ARCHS), (RMT, rmt.ARCHS)) for arch in archs],
)
def test_any_size_of_the_networks(family, arch, train):
    network = family(arch).train(train)
    for size in ((1, 1), (31, 33), (97, 131), (225, 225), (200, 333)):
        for output, stride in zip(network(torch.randn(2, 3, *size)), network.out_strides):
            assert output.shape[2:] == tuple(math.ceil(side / stride) for side in size)
            assert output.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize(
    'family, arch', [(ResT, 'small'), (RMT, 't'), (RMT, 's'), (RMT, 'swin_t'), (RMT, 'deit_s')]
)
def test_with_cp_changes_nothing_of_a_network(family, arch):
    results = []
    plain = family(arch)
    for network in (plain, family(arch, with_cp=True)):
        network.load_state_dict(plain.state_dict())
        torch.manual_seed(1)
        results.append(gradients(network, torch.randn(2, 3, 64, 96)))
    (outputs, grads), (cp_outputs, cp_grads) = results
    for output, cp_output in zip(outputs, cp_outputs):
        torch.testing.assert_close(cp_output, output, rtol=0, atol=1e-6)
    for name, grad in grads.items():
        torch.testing.assert_close(cp_grads[name], grad, rtol=1e-6, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    'kind, out_indices',
    [(kind, s) for kind in KINDS for s in SUBSETS if s[-1] < len(TINY[kind]['dims'])],
)
def test_any_outputs(kind, out_indices):
    """out_indices do not change the outputs, and every parameter has a gradient."""
    whole = randomised(tiny(kind)).eval()
    part = tiny(kind, out_indices=out_indices).eval()
    assert not part.load_state_dict(whole.state_dict(), strict=False).missing_keys
    x = torch.randn(2, 3, 40, 56)
    outputs, grads = gradients(part, x)
    for output, index in zip(outputs, out_indices):
        torch.testing.assert_close(output, whole(x)[index], rtol=0, atol=0)
    assert [name for name, grad in grads.items() if grad is None] == []
    assert part.out_channels == tuple(whole.out_channels[i] for i in out_indices)
    assert part.out_strides == tuple(whole.out_strides[i] for i in out_indices)


def test_names_of_norms_keep_the_stage():
    rest, rmt = (set(tiny(f, out_indices=(1, 2)).state_dict()) for f in (ResT, RMT))
    assert {'norm2.weight', 'norm3.weight'} <= rest
    assert not {'norm1.weight', 'norm.weight'} & rest
    assert {'extra_norms.1.weight', 'extra_norms.2.weight'} <= rmt
    assert not {'extra_norms.0.weight', 'extra_norms.3.weight'} & rmt
    assert not [name for name in rest if name.startswith(('stage4', 'patch_embed_4'))]
    assert not [name for name in rmt if name.startswith(('layers.3', 'layers.2.downsample'))]


@both
@pytest.mark.parametrize('out_indices', [(1, 2, 3), (3,)])
def test_norm_in_path_does_not_depend_on_outputs(family, out_indices):
    whole = randomised(tiny(family, norm_in_path=True)).eval()
    part = tiny(family, norm_in_path=True, out_indices=out_indices).eval()
    part.load_state_dict(whole.state_dict())
    x = torch.randn(1, 3, 40, 56)
    outputs, grads = gradients(part, x)
    for output, index in zip(outputs, out_indices):
        torch.testing.assert_close(output, whole(x)[index], rtol=0, atol=0)
    assert None not in grads.values()


@both
def test_output_norms_are_the_last_step(family):
    normed = randomised(tiny(family)).eval()
    bare = tiny(family, output_norms=False).eval()
    assert not bare.load_state_dict(normed.state_dict(), strict=False).missing_keys
    x = torch.randn(1, 3, 40, 56)
    for stage, (wanted, plain) in enumerate(zip(normed(x), bare(x))):
        found = normed.output_norm(stage)(plain.permute(0, 2, 3, 1))
        torch.testing.assert_close(found.permute(0, 3, 1, 2), wanted, rtol=0, atol=1e-6)


@every
def test_modes_return_the_network(kind):
    network = tiny(kind)
    assert network.eval() is network and not network.training
    assert network.train() is network and network.training


@every
def test_with_cp_changes_nothing(kind):
    plain = randomised(tiny(kind, drop_path_rate=0.5))
    checkpointed = tiny(kind, drop_path_rate=0.5, with_cp=True)
    checkpointed.load_state_dict(plain.state_dict())
    x = torch.randn(4, 3, 40, 56)
    results = []
    for network in (plain, checkpointed):
        torch.manual_seed(1)  # the same paths are dropped
        results.append(gradients(network, x))
    (outputs, grads), (cp_outputs, cp_grads) = results
    for output, cp_output in zip(outputs, cp_outputs):
        torch.testing.assert_close(cp_output, output, rtol=0, atol=1e-6)
    for name, grad in grads.items():
        torch.testing.assert_close(cp_grads[name], grad, rtol=1e-6, atol=1e-6, msg=name)
    assert dict(plain.named_buffers()).keys() == dict(checkpointed.named_buffers()).keys()
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(dict(checkpointed.named_buffers())[name], buffer, msg=name)


@every
def test_with_cp_keeps_less(kind):
    def kept(network):
        storages = {}

        def pack(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            outputs = network(torch.randn(1, 3, 96, 96))
        assert outputs
        return sum(storages.values())

    assert kept(tiny(kind, with_cp=True)) < 0.6 * kept(tiny(kind))


@pytest.mark.parametrize(
    'kind, frozen_stages',
    [(kind, k) for kind in KINDS for k in range(-1, len(TINY[kind]['dims']) + 1)],
)
def test_frozen_parts_stay(kind, frozen_stages):
    network = randomised(tiny(kind, frozen_stages=frozen_stages))
    before = copy.deepcopy(network.state_dict())
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained or [nn.Parameter(torch.zeros(1))], lr=0.1)
    for mode in (None, False, True):  # as built, and after a change of mode
        if mode is not None:
            network.train(mode)
    if trained:
        gradients(network, torch.randn(2, 3, 40, 56))
        optimizer.step()
    else:
        network(torch.randn(2, 3, 40, 56))  # may move running statistics
    frozen = (
        network.embedding(0),
        *(
            part
            for stage in range(frozen_stages)
            for part in (
                network.embedding(stage),
                network.blocks(stage),
                network.output_norm(stage),
            )
        ),
    )
    frozen_modules = (
        {m for part in frozen for m in part.modules()} if frozen_stages >= 0 else set()
    )
    for name, module in network.named_modules():
        for leaf, tensor in itertools.chain(
            module.named_parameters(recurse=False), module.named_buffers(recurse=False)
        ):
            full = f'{name}.{leaf}'
            if module in frozen_modules:
                assert torch.equal(tensor, before[full]), f'{full} moved'
                assert not tensor.requires_grad and not module.training
            elif leaf != 'bias' or not name.endswith('transform_conv'):
                # The mixing bias cancels in the softmax.
                assert not torch.equal(tensor, before[full]), f'{full} did not move'


@both
@pytest.mark.parametrize('kind', ['BN', 'SyncBN'])
def test_norm_eval(family, kind):
    network = tiny(family, norm_cfg=dict(type=kind), norm_eval=True)
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms and {isinstance(m, nn.SyncBatchNorm) for m in norms} == {kind == 'SyncBN'}
    assert not any(m.training for m in norms)  # as built
    network.eval().train()
    assert network.training and not any(m.training for m in norms)
    if kind == 'BN':  # SyncBN runs on accelerators alone
        before = copy.deepcopy(dict(network.named_buffers()))
        network(torch.randn(2, 3, 40, 56))
        for name, buffer in network.named_buffers():
            assert torch.equal(buffer, before[name]), name


@both
def test_norm_cfg_can_freeze_norms(family):
    network = tiny(family, norm_cfg=dict(type='BN', requires_grad=False))
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not any(p.requires_grad for m in norms for p in m.parameters())


@every
def test_copies_and_pickles(kind):
    network = randomised(tiny(kind)).eval()
    x = torch.randn(1, 3, 33, 47)
    expected = network(x)
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
def test_autocast(kind):
    network = randomised(tiny(kind))
    x = torch.randn(2, 3, 40, 56)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        _, grads = gradients(network, x)
    assert all(grad.isfinite().all() and grad.dtype is torch.float32 for grad in grads.values())


@every
def test_trains_after_inference_mode(kind):
    network = tiny(kind)
    x = torch.randn(2, 3, 40, 56)
    with torch.inference_mode():
        network(x)
    _, grads = gradients(network, x)
    assert None not in grads.values()


@every
def test_builds_on_the_meta_device(kind):
    with torch.device('meta'):
        network = tiny(kind)
        outputs = network(torch.empty(2, 3, 97, 131))
    sizes = {4: (25, 33), 8: (13, 17), 16: (7, 9), 32: (4, 5)}
    assert [tuple(o.shape[-2:]) for o in outputs] == [sizes[s] for s in network.out_strides]


@every
def test_drop_path_grows_linearly(kind):
    network = tiny(kind, drop_path_rate=0.4)
    stages = range(network.num_stages)
    rates = [b.drop_path.drop_prob for stage in stages for b in network.blocks(stage)]
    assert rates == pytest.approx([0.4 * i / (len(rates) - 1) for i in range(len(rates))])


@both
def test_drop_path_does_not_depend_on_outputs(family):
    part = tiny(family, drop_path_rate=0.4, out_indices=(1,))
    assert [b.drop_path.drop_prob for b in part.blocks(1)] == pytest.approx([0.1, 0.2])


@every
def test_other_channels_and_batches(kind):
    network = tiny(kind, in_channels=5).eval()
    channels, stride = network.out_channels[-1], network.out_strides[-1]
    for batch in (3, 0):
        last = network(torch.randn(batch, 5, 40, 56))[-1]
        assert last.shape == (batch, channels, math.ceil(40 / stride), math.ceil(56 / stride))


@every
@pytest.mark.parametrize('shape', [(3, 40, 56), (1, 4, 40, 56)])
def test_other_shapes_are_refused(kind, shape):
    with pytest.raises(ValueError, match=r'expects images of shape \(B, 3, H, W\), got'):
        tiny(kind)(torch.randn(shape))


@both
@pytest.mark.parametrize(
    'argument, value, message',
    [
        ('out_indices', (), r'choice of \(0, 1, 2, 3\), got \(\)'),
        ('out_indices', (0, 4), r'choice of \(0, 1, 2, 3\), got \(0, 4\)'),
        ('out_indices', (1, 0), r'ascending.*got \(1, 0\)'),
        ('out_indices', (1, 1), r'ascending.*got \(1, 1\)'),
        ('out_indices', 3, r'got 3'),
        ('frozen_stages', 5, r'one of \(-1, 0, 1, 2, 3, 4\), got 5'),
        ('frozen_stages', -2, r'one of \(-1, 0, 1, 2, 3, 4\), got -2'),
        ('frozen_stages', 1.0, r'one of \(-1, 0, 1, 2, 3, 4\), got 1.0'),
        ('frozen_stages', True, r'one of \(-1, 0, 1, 2, 3, 4\), got True'),
        ('drop_path_rate', 1.0, r'in \[0, 1\), got 1.0'),
        ('drop_path_rate', '0.1', r"in \[0, 1\), got '0.1'"),
        ('in_channels', 0, r'positive integer, got 0'),
        ('norm_eval', 'no', "True or False, got 'no'"),
        ('with_cp', 1, 'True or False, got 1'),
        ('output_norms', 'no', "True or False, got 'no'"),
        ('norm_in_path', 0, 'True or False, got 0'),
        ('norm_cfg', 'BN', r"be a dict whose type.*got 'BN'"),
        ('norm_cfg', {}, r'be a dict whose type.*got \{\}'),
    ],
)
def test_bad_arguments_are_named(family, argument, value, message):
    with pytest.raises(ValueError, match=f'{argument} must.*{message}'):
        tiny(family, **{argument: value})


@both
def test_norms_of_the_path_are_output_norms(family):
    with pytest.raises(ValueError, match='norm_in_path=True needs output_norms=True'):
        tiny(family, norm_in_path=True, output_norms=False)


@both
def test_unknown_norms_are_named(family):
    with pytest.raises(ValueError, match=r"norm layer of mmcv for maps: 'BN'.*'BM'"):
        tiny(family, norm_cfg=dict(type='BM'))


@every
def test_depth_of_parameters(kind):
    """It grows from the stem to the last block; output norms, and heads, are deepest."""
    network = tiny(kind)
    _, depths = network.get_layer_depth('')
    assert depths == sum(network.arch.depths) + 2
    names = {parameter: name for name, parameter in network.named_parameters()}
    blocks = [block for stage in range(network.num_stages) for block in network.blocks(stage)]
    for part, depth in [(network.embedding(0), 0), *((b, i) for i, b in enumerate(blocks, 1))]:
        for parameter in part.parameters():
            name = f'backbone.{names[parameter]}'
            assert network.get_layer_depth(name, 'backbone.') == (depth, depths)
    for stage in range(1, network.num_stages):
        (first, *_), depth = network.blocks(stage), sum(network.arch.depths[:stage]) + 1
        for part in (network.embedding(stage), first):
            name = names[next(part.parameters())]
            assert network.get_layer_depth(name) == (depth, depths)
    norm = names[network.output_norm(network.num_stages - 1).weight]
    for name in (norm, 'rpn_head.rpn_conv.weight'):
        assert network.get_layer_depth(name) == (depths - 1, depths)


@both
def test_out_indices_may_be_any_sequence_of_integers(family):
    for indices in (range(1, 3), [np.int64(1), np.int64(2)]):
        assert tiny(family, out_indices=indices).out_indices == (1, 2)


@both
def test_norms_that_are_not_for_maps_are_refused(family):
    for norm_cfg in (dict(type='LN'), dict(type='XN'), None):
        with pytest.raises(ValueError, match='norm_cfg must be a dict whose type is a norm layer'):
            tiny(family, norm_cfg=norm_cfg)
