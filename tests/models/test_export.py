"""Networks through torch.compile, torch.export and ONNX, against eager mode."""

import copy
import io
from inspect import signature

import pytest
import torch
from torch import nn

from mmrest import RMT, ResT
from mmrest.export.onnx import export
from tests.models.networks import FAMILIES, KINDS, gradients, randomised, tiny
from tests.torch_versions import needs_compile, needs_torch

ALL = [
    *((kind, None) for kind in KINDS),
    *((family, arch) for family in FAMILIES for arch in family.archs),
]
pytestmark = pytest.mark.slow  # test_wrappers.py compiles, tests/cli/test_export.py exports
over_all = pytest.mark.parametrize('kind, arch', ALL)


def network_of(kind, arch):
    """In evaluation, with weights that keep signals in range.

    All parameters of the small networks are away from their start. The large ones of ResT are as
    training begins: at other scales its norm of the maps magnifies the rounding of eager mode in
    24 blocks to more than what is asked for.
    """
    network = tiny(kind) if arch is None else kind(arch)
    network.init_weights()
    with torch.no_grad():
        if arch is None or kind is RMT:
            for parameter in randomised(network).parameters():
                if parameter.ndim > 1:
                    nn.init.xavier_normal_(parameter)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        network.train()(torch.randn(2, 3, 64, 96))
    return network.eval()


def assert_same_as_eager(network, run):
    """At the size that is exported, at another one, and for another batch size.

    To 1e-4, or twice the rounding of eager mode if that is more, as in ResT-Large.
    """
    exact = copy.deepcopy(network).double()
    for batch, height, width in ((2, 64, 96), (2, 97, 131), (3, 64, 64)):
        images = torch.randn(batch, 3, height, width)
        with torch.no_grad():
            expected, found, truth = network(images), run(images), exact(images.double())
        assert len(found) == len(expected)
        for a, b, c in zip(found, expected, truth):
            atol = max(1e-4, 2 * float((b - c).abs().max()))
            torch.testing.assert_close(torch.as_tensor(a), b, rtol=1e-4, atol=atol)


@needs_compile
@over_all
@pytest.mark.parametrize('dynamic, backend', [(False, 'aot_eager'), (True, 'inductor')])
def test_compile(kind, arch, dynamic, backend):
    """One graph, forward and, but for inductor, which takes minutes, backward."""
    torch.compiler.reset()
    network = network_of(kind, arch)
    compiled = torch.compile(network, fullgraph=True, dynamic=dynamic, backend=backend)
    assert_same_as_eager(network, compiled)
    if backend == 'inductor':
        return
    images = torch.randn(2, 3, 64, 96)
    _, expected = gradients(network, images)
    _, found = gradients(compiled, images)
    for name, grad in expected.items():
        atol = 1e-3 * max(1, grad.abs().max())
        torch.testing.assert_close(found[f'_orig_mod.{name}'], grad, rtol=0, atol=atol, msg=name)


@needs_torch(2, 5, 'torch.export.Dim.AUTO')
@over_all
def test_export(kind, arch):
    network = network_of(kind, arch)
    free = ({axis: torch.export.Dim.AUTO for axis in (0, 2, 3)},)
    program = torch.export.export(network, (torch.randn(2, 3, 64, 96),), dynamic_shapes=free)
    assert_same_as_eager(network, program.module())


@over_all
def test_onnx(kind, arch, session):
    network = network_of(kind, arch)
    exported = session(export(network, (64, 96)).SerializeToString())
    assert_same_as_eager(network, lambda images: exported.run(None, {'images': images.numpy()}))


def test_onnx_by_torchscript(session):
    """Maps of any size, also by the older exporter, if people call it themselves."""
    network, file = network_of(ResT, 'lite'), io.BytesIO()
    axes = {0: 'batch', 2: 'height', 3: 'width'}
    newer = dict(dynamo=False) if 'dynamo' in signature(torch.onnx.export).parameters else {}
    torch.onnx.export(
        network, (torch.randn(2, 3, 64, 96),), file, opset_version=17, input_names=['images'],
        dynamic_axes={'images': axes}, **newer,
    )  # fmt: skip
    exported = session(file.getvalue())
    assert_same_as_eager(network, lambda images: exported.run(None, {'images': images.numpy()}))
