"""What all attentions have in common: exactness, gradients, linear memory, any strides."""

import pytest
import torch

from mmrest.analysis import measure
from mmrest.ops import use_backend
from tests.ops.attentions import ATTENTIONS, emsa_inputs
from tests.ops.exactness import assert_as_exact
from tests.torch_versions import FLOAT16, needs_torch

slow = pytest.mark.slow
HALF = [FLOAT16, torch.bfloat16]
ALL = pytest.mark.parametrize('attention', ATTENTIONS.values(), ids=ATTENTIONS)


def cases(sizes, marks=()):
    """Attention and size, for a dict of their lists."""
    return [
        pytest.param(ATTENTIONS[name], size, marks=marks, id=f'{name}-{"x".join(map(str, size))}')
        for name, of_name in sizes.items()
        for size in of_name
    ]


MASA = [
    (2, 7, 13, 2, 16), (1, 1, 97, 4, 32), (1, 113, 3, 1, 24), (2, 5, 7, 3, 96), (1, 9, 11, 20, 32),
    (1, 2, 334, 2, 16), (3, 5, 7, 1, 16),
]  # fmt: skip
# Batch, two lengths, heads and channels; no length is a multiple of a tile.
SIZES = dict(
    emsa=[
        (2, 97, 7, 1, 64), (1, 113, 97, 2, 16), (2, 7, 7, 3, 24), (1, 334, 21, 8, 96),
        (1, 97, 13, 20, 32), (1, 1, 1025, 2, 16), (1, 1025, 1, 2, 16),
    ],
    masa_full=MASA,
    masa_axial=MASA,
)  # fmt: skip
# Triton's interpreter takes a hundred times as long.
TRITON_SIZES = dict(
    emsa=[(2, 7, 1, 3, 24), (1, 67, 33, 2, 16)],
    masa_full=[(1, 5, 13, 2, 16), (1, 5, 7, 1, 96)],
    masa_axial=[(2, 2, 3, 1, 16), (1, 1, 5, 2, 24)],
)
LONG_TRITON_SIZES = dict(
    emsa=[
        (1, 97, 33, 2, 16), (1, 97, 113, 2, 16), (1, 334, 7, 2, 32), (1, 1, 1025, 2, 16),
        (1, 1025, 1, 2, 16), (1, 40, 33, 3, 96), (1, 33, 7, 20, 16), (1, 334, 21, 8, 96),
        (1, 1025, 113, 2, 64),
    ],
    masa_full=[
        (2, 7, 13, 2, 16), (1, 97, 1, 1, 24), (1, 1, 113, 2, 32), (1, 5, 7, 3, 96),
        (1, 25, 41, 1, 16),
    ],
    masa_axial=[
        (2, 5, 7, 1, 16), (1, 5, 3, 3, 96), (1, 2, 97, 1, 24), (1, 2, 334, 2, 16),
        (1, 113, 3, 1, 24), (1, 9, 11, 20, 32),
    ],
)  # fmt: skip


def check(attention, tensors, dtype, times=2.0):
    """The chosen backend, with queries and keys that are parts of wider tensors."""

    def fused(q, k, *others):
        wide = (torch.cat((x, x), -1)[..., : x.shape[-1]] for x in (q, k))
        return attention.fused(*wide, *others)

    assert_as_exact(fused, attention.reference, tensors, dtype, times)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, *HALF])
@pytest.mark.parametrize('attention, size', cases(SIZES))
def test_as_exact_as_the_reference(attention, size, dtype):
    check(attention, attention.inputs(*size), dtype)


@pytest.mark.parametrize('dtype', [
    torch.bfloat16, *(pytest.param(t, marks=slow) for t in (
        torch.float64, torch.float32, torch.float16,
    )),
])  # fmt: skip
@pytest.mark.parametrize('attention, size', cases(TRITON_SIZES) + cases(LONG_TRITON_SIZES, slow))
def test_kernels_in_the_interpreter(attention, size, dtype):
    pytest.importorskip('triton', '3.3')
    with use_backend('triton'):
        check(attention, attention.inputs(*size), dtype)


@pytest.mark.parametrize('dtype', [torch.float32, *HALF])
@pytest.mark.parametrize('name, size, scale', [
    ('emsa', (2, 50, 16, 4, 16), 1e-4), ('emsa', (2, 50, 16, 4, 16), 6.0),
    ('masa_full', (2, 7, 13, 2, 16), 7.0), ('masa_axial', (2, 7, 13, 2, 16), 7.0),
])  # fmt: skip
def test_flat_and_steep_maps(fused_backend, name, size, scale, dtype):
    """Nearly uniform maps, whose deviations are tiny, and logits whose exponentials overflow."""
    q, k, *others = ATTENTIONS[name].inputs(*size, scale=scale)
    by_head = [x if name == 'emsa' else x.flatten(1, 2).transpose(1, 2) for x in (q, k)]
    assert scale < 1 or torch.einsum('bnqd,bnkd->bnqk', *by_head).max() / 16**0.5 > 89
    # The gradient of the values in torch's fused attention has 2.0 to 2.2 times the error, and
    # EMSA's flat maps have 2.3 times without vector instructions.
    times = 3.0 if name != 'masa_full' and dtype is torch.float32 else 2.0
    check(ATTENTIONS[name], (q, k, *others), dtype, times)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, *HALF])
@pytest.mark.parametrize('scale', [1e-4, 1.0, 7.0])
def test_emsa_in_graphs(scale, dtype, monkeypatch):
    monkeypatch.setattr('mmrest.ops.dispatch.is_compiling', lambda: True)
    tensors = emsa_inputs(2, 97, 13, 3, 24, scale)[:4]  # the gradient of a bias is only roundings
    check(ATTENTIONS['emsa'], tensors, dtype)


@pytest.mark.parametrize('attention, size', cases(dict(
    emsa=[(2, 5, 3, 1, 2), (2, 5, 3, 3, 2), (2, 1, 1, 2, 2)],
    masa_full=[(2, 2, 3, 2, 2)],
    masa_axial=[(2, 2, 3, 2, 2)],
)))  # fmt: skip
def test_gradients(backend, attention, size):
    leaves = [tensor.requires_grad_() for tensor in attention.inputs(*size)]
    # The interpreter is slow: a product with the whole Jacobian, rather than its every element.
    assert torch.autograd.gradcheck(attention.fused, leaves, fast_mode=backend == 'triton')


def saved_bytes(attention, size):
    tensors = [tensor.requires_grad_() for tensor in attention.inputs(*size)]
    return measure.saved_bytes(lambda: attention.fused(*tensors))


@pytest.mark.parametrize('name, small, large, factor', [
    ('emsa', (1, 256, 64, 1, 8), (1, 1024, 256, 1, 8), 4),
    ('emsa', (1, 256, 64, 4, 8), (1, 1024, 256, 4, 8), 4),
    ('masa_full', (1, 16, 16, 2, 8), (1, 32, 32, 2, 8), 2),
    pytest.param(
        'masa_axial', (1, 16, 16, 2, 8), (1, 32, 32, 2, 8), 2,
        marks=needs_torch(2, 3, 'fused attention with a mask on a CPU'),
    ),
])  # fmt: skip
def test_memory_grows_linearly(name, small, large, factor):
    """Four times as many tokens keep four times as much, the reference more than that."""
    attention = ATTENTIONS[name]
    kept = saved_bytes(attention, large)
    assert 0 < kept <= 4.1 * saved_bytes(attention, small)
    with use_backend('reference'):
        assert saved_bytes(attention, large) > factor * kept


@ALL
@pytest.mark.parametrize('scatter', [
    lambda x: torch.stack((x, x), -1)[..., 0],
    lambda x: torch.cat((x, x[..., :1]), -1)[..., :-1],
    lambda x: x.transpose(1, -2).contiguous().transpose(1, -2),
    lambda x: torch.cat((x.flatten()[:1], x.flatten()))[1:].view_as(x),
], ids=['channels apart', 'tokens an odd number apart', 'transposed', 'an odd start'])  # fmt: skip
def test_any_strides(backend, attention, scatter):
    tensors = [tensor.float() for tensor in attention.inputs(2, 3, 5, 2, 16)]
    scattered = [*map(scatter, tensors[:3]), *tensors[3:]]
    leaves = [[x.detach().requires_grad_() for x in xs] for xs in (scattered, tensors)]
    outputs = [attention.fused(*xs) for xs in leaves]
    torch.testing.assert_close(*outputs)
    for output in outputs:
        output.sum().backward()
    for ours, their in zip(*leaves):
        torch.testing.assert_close(ours.grad, their.grad)


@ALL
@pytest.mark.parametrize('loss', [torch.sum, lambda out: out.square().sum()])
def test_no_second_derivative(fused_backend, attention, loss):
    """The fused forms raise instead of giving a wrong one."""
    q, *others = (tensor.requires_grad_() for tensor in attention.inputs(2, 2, 3, 2, 4))
    with pytest.raises(RuntimeError, match=r'no second derivative: run it |not implemented'):
        (grad,) = torch.autograd.grad(loss(attention.fused(q, *others)), q, create_graph=True)
        grad.square().sum().backward()


@pytest.mark.parametrize('attention, size', cases(dict(
    emsa=[(2, 50, 12, 1, 16), (2, 50, 12, 4, 16)],
    masa_full=[(2, 7, 5, 2, 16)],
    masa_axial=[(2, 7, 5, 2, 16)],
)))  # fmt: skip
def test_autocast_changes_nothing(fused_backend, attention, size):
    """With inputs that autocast has made half, in forward and backward."""
    tensors = [tensor.bfloat16() for tensor in attention.inputs(*size)]
    grads = []
    for enabled in (False, True):
        leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=enabled):
            attention.fused(*leaves).float().sum().backward()
        grads.append([leaf.grad for leaf in leaves])
    assert all(map(torch.equal, *grads))
