"""Kernels are tried before they are used, and PyTorch computes what they cannot."""

import importlib
import logging
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from mmrest import ops
from mmrest.ops import gpu, trust, use_backend
from mmrest.ops.emsa import _refuse_unless_small
from mmrest.ops.masa import _axial, _full
from tests.torch_versions import FLOAT16

each_kernel = pytest.mark.parametrize('kernel', trust.candidates.values(), ids=trust.candidates)
CPU = torch.device('cpu')
dtypes = pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, FLOAT16])


@pytest.fixture
def device(monkeypatch):
    """A simulated GPU: its tensors are on the CPU, where the kernels are interpreted."""
    monkeypatch.setattr(trust, '_verdicts', {})
    monkeypatch.setattr(gpu, '_triton_refusal', lambda: None)
    monkeypatch.setattr(gpu, '_load', lambda package: None)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda *_: (9, 0))

    def like(dtype=torch.bfloat16, shape=(2, 3, 4, 1, 16), is_cuda=True):
        return SimpleNamespace(
            is_cuda=is_cuda, device=CPU, dtype=dtype, shape=torch.Size(shape),
            is_floating_point=lambda: True,
        )  # fmt: skip

    return like


def failure(kernel, run, dtype):
    """What the trial of a kernel says of a function in its place."""
    x = torch.zeros(16, dtype=dtype)
    assert kernel.trial(x, x)[0].dtype is dtype
    return trust.failure(kernel._replace(run=run), x, x)


@each_kernel
@dtypes
def test_only_right_kernels_pass_the_trial(kernel, dtype):
    """The tolerance is fair to the rounding of the dtype."""
    run = kernel.reference
    assert failure(kernel, run, dtype) is None
    for wrong in (
        lambda *args: run(*args) * 1.2,
        lambda q, *args: run(q * 1.5, *args),
        lambda q, k, v, *args: run(q, k, v.roll(1, -2), *args),
        lambda *args: run(*args) + float('nan'),
        lambda q, k, v, *args: run(q, k, v.detach(), *args) + 0 * v.sum(),
    ):
        assert 'deviates by' in failure(kernel, wrong, dtype)


@pytest.mark.slow
@each_kernel
@dtypes
def test_the_kernels_pass_the_trial(kernel, dtype):
    """In Triton's interpreter."""
    pytest.importorskip('triton', '3.3')
    assert failure(kernel, kernel.run, dtype) is None


@pytest.mark.parametrize('kernel, reason', [
    (Mock(side_effect=RuntimeError('out of resource\nmore')), 'RuntimeError: out of resource'),
    (Mock(side_effect=FileNotFoundError('no compiler')), 'FileNotFoundError: no compiler'),
    (lambda *args: ops.emsa_reference(*args) * 2, 'the result deviates by'),
])  # fmt: skip
def test_one_warning_and_pytorch_from_then_on(device, caplog, monkeypatch, kernel, reason):
    monkeypatch.setitem(trust.candidates, 'EMSA', trust.candidates['EMSA']._replace(run=kernel))
    for _ in range(3):
        assert trust.refuse_untrusted('EMSA', CPU, torch.bfloat16, 16, 16).startswith(reason)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert 'EMSA: the Triton kernel is not used for torch.bfloat16 on cpu' in record.message
    assert reason in record.message and '\n' not in record.message


def test_a_kernel_is_tried_once_for_device_dtype_and_channels(device, monkeypatch):
    """Also while a graph is compiled, which then takes the answer for a constant."""
    calls = []

    def run(*args):
        calls.append(args[0].shape[-1])
        return ops.emsa_reference(*args)

    monkeypatch.setitem(trust.candidates, 'EMSA', trust.candidates['EMSA']._replace(run=run))

    def refusal(x):
        return trust.refuse_untrusted('EMSA', x.device, x.dtype, x.shape[-1], x.shape[-1])

    for dim in (16, 16, 32):
        assert refusal(torch.zeros(1, dim)) is None
    assert calls == [16, 32]
    if not hasattr(torch.library, 'custom_op'):
        return  # before torch 2.4, graphs have no kernels
    compiled = torch.compile(
        lambda x: x if refusal(x) is None else -x, backend='eager', fullgraph=True
    )
    for _ in range(2):
        assert compiled(torch.ones(1, 24)).sum() == 24
    assert calls == [16, 32, 24]


def test_not_during_the_capture_of_a_graph(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_initialized', lambda: True)
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: True)
    for _ in range(2):
        reason = trust.refuse_untrusted('EMSA', torch.device('cuda'), torch.bfloat16, 16, 16)
        assert reason == 'a CUDA graph is being captured before the kernel has been tried'
    assert not trust._verdicts


def test_a_trial_leaves_random_numbers_and_gradient_mode_as_they_are(device):
    state = torch.get_rng_state()
    with torch.inference_mode():
        assert failure(trust.candidates['EMSA'], ops.emsa_reference, torch.float32) is None
        assert torch.is_inference_mode_enabled()
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize('name', trust.candidates)
def test_a_trial_in_a_block_that_is_recomputed(device, monkeypatch, name):
    """The first use of a kernel with activation checkpointing."""
    kernel = trust.candidates[name]
    monkeypatch.setitem(trust.candidates, name, kernel._replace(run=kernel.reference))

    def block(x):
        assert trust.refuse_untrusted(name, x.device, x.dtype, 16, 16) is None
        return (x * x).sum()

    x = torch.ones(3, requires_grad=True)
    with FlopCounterMode(display=False) as seen:  # like the modes of selective checkpointing
        checkpoint(block, x, use_reentrant=False).backward()
    assert x.grad.tolist() == [2, 2, 2]
    assert seen.get_total_flops() == 0


def test_a_forced_backend_raises_what_the_trial_found(device, monkeypatch):
    x, found = device(), 'the result deviates by 1.0e+00'
    for operation, name in ((_full, 'full MaSA'), (_axial, 'axial MaSA')):
        monkeypatch.setitem(trust._verdicts, (name, x.device, x.dtype, 16, 16), found)
        with use_backend('triton'), pytest.raises(ValueError, match=found.replace('+', '.')):
            operation(x, x, x, None)


def test_float32_is_left_to_pytorch_on_a_gpu(device):
    x = device(torch.float32)
    assert gpu.refuse_triton(x, x, x) == 'in float32 PyTorch is faster'
    with use_backend('triton'):
        assert gpu.refuse_triton(x, x, x) is None
    assert gpu.refuse_triton(*[device()] * 3) is None
    assert 'do not support float64' in gpu.refuse_triton(*[device(torch.float64)] * 3)


def test_plain_operations_for_small_maps(device):
    """In training on a GPU, and in inference on a CPU."""

    def refusal(queries, keys, **where):
        q = device(shape=(64, 4, queries, 32), **where)
        return _refuse_unless_small(q, device(shape=(64, 4, keys, 32)))

    cpu = dict(is_cuda=False, dtype=torch.float32)
    assert refusal(196, 49) is None
    assert refusal(16800, 1050) is not None
    assert refusal(20, 9, **cpu) is not None
    with torch.no_grad():
        assert refusal(196, 49) is not None
        assert refusal(20, 9, **cpu) is None
        assert refusal(196, 49, **cpu) is not None
        assert refusal(20, 9, **dict(cpu, dtype=torch.bfloat16)) is not None


def test_grids_have_no_limit():
    """CUDA's grids end at 65,535 in all dimensions but the first."""
    pytest.importorskip('triton', '3.3')
    load = importlib.import_module
    of_masa, of_emsa = load('mmrest.ops.masa.triton'), load('mmrest.ops.emsa.triton')
    q = torch.empty(3000, 1, 4, 40, 16, device='meta')
    for width in (None, 2):
        (first, *others), _ = of_masa._layout(q, q, q, width)
        assert first == 3000 * 40 and max(others) < 65536
    q = torch.empty(3000, 40, 10, 16, device='meta')
    assert of_emsa._grid(10, q, q) == (3000 * 40,)
