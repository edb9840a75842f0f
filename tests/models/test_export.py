"""Networks through torch.compile, torch.export and ONNX, against eager mode."""

import pytest
import torch
from torch import nn

from mmrest import RMT
from mmrest.export.onnx import export
from tests.models.networks import FAMILIES, KINDS, randomised, tiny
from tests.torch_versions import needs_compile, needs_torch

BATCH_AND_SIZES = [(2, 64, 96), (2, 97, 131)]
"""The first one is compiled and exported."""

MORE = [*BATCH_AND_SIZES, (3, 64, 64)]

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


def assert_same_as_eager(network, run, batch_and_sizes=BATCH_AND_SIZES):
    for shape in batch_and_sizes:
        batch, *size = shape
        images = torch.randn(batch, 3, *size)
        with torch.no_grad():
            expected, found = network(images), run(images)
        assert len(found) == len(expected)
        for a, b in zip(found, expected):
            torch.testing.assert_close(torch.as_tensor(a), b, rtol=1e-4, atol=1e-4)


@needs_compile
@over_all
def test_compile(kind, arch):
    """One graph, forward and backward. With inductor and dynamic sizes it takes minutes: below."""
    torch.compiler.reset()
    network = network_of(kind, arch)
    compiled = torch.compile(network, fullgraph=True, dynamic=False, backend='aot_eager')
    assert_same_as_eager(network, compiled)
    images, found = torch.randn(2, 3, 64, 96), []
    for run in (network, compiled):
        network.zero_grad()
        sum((output * output.detach().cos()).sum() for output in run(images)).backward()
        found.append({n: p.grad for n, p in network.named_parameters() if p.grad is not None})
    for name, expected in found[0].items():
        atol = 1e-3 * max(1, expected.abs().max())
        torch.testing.assert_close(found[1][name], expected, rtol=0, atol=atol, msg=name)


@over_all
def test_inductor(kind, arch):
    torch.compiler.reset()
    network = network_of(kind, arch)
    compiled = torch.compile(network, fullgraph=True, dynamic=True)
    assert_same_as_eager(network, compiled)


@needs_torch(2, 5, 'torch.export.Dim.AUTO')
@over_all
def test_export(kind, arch):
    network = network_of(kind, arch)
    free = ({axis: torch.export.Dim.AUTO for axis in (0, 2, 3)},)
    program = torch.export.export(network, (torch.randn(2, 3, 64, 96),), dynamic_shapes=free)
    assert_same_as_eager(network, program.module(), MORE)


@over_all
def test_onnx(kind, arch):
    onnxruntime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    network = network_of(kind, arch)
    session = onnxruntime.InferenceSession(
        export(network, (64, 96)).SerializeToString(), providers=['CPUExecutionProvider']
    )
    assert_same_as_eager(
        network, lambda images: session.run(None, {'images': images.numpy()}), MORE
    )
