"""Kernels are tried before they are used, and PyTorch computes what they cannot."""

import importlib
import logging
from types import SimpleNamespace

import pytest
import torch

from mmrest.ops import emsa, gpu, masa, trust, use_backend
from mmrest.ops.emsa import _refuse_unless_small, emsa_reference
from tests.ops.attentions import ATTENTIONS, emsa_inputs

KERNELS = [
    ('masa', 'masa_full_triton', '_full'),
    ('masa', 'masa_axial_triton', '_axial'),
    ('emsa', 'emsa_triton', '_mixed_heads'),
]


@pytest.fixture
def device(monkeypatch):
    """A simulated GPU: its tensors are on the CPU, where the kernels are interpreted."""
    monkeypatch.setattr(trust, '_verdicts', {})
    monkeypatch.setattr(gpu, '_triton_refusal', lambda: None)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda *_: (9, 0))
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: False)

    def like(dtype=torch.bfloat16, dim=16, **changes):
        x = SimpleNamespace(
            is_cuda=True,
            device=torch.device('cpu'),
            dtype=dtype,
            shape=torch.Size((2, 3, 4, 1, dim)),
            is_floating_point=lambda: True,
        )
        vars(x).update(changes)
        return x

    return like


def trial_of(package, operation):
    """Arguments of the small case of an operation, in float32, and the reference of it."""
    module = importlib.import_module(f'mmrest.ops.{package}')
    refusal = getattr(module, operation).implementations[-4 if package == 'masa' else 1].refusal
    return {
        cell: value.cell_contents
        for cell, value in zip(refusal.__code__.co_freevars, refusal.__closure__)
    }


@pytest.mark.parametrize('package, name, operation', KERNELS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_pytorchs_forms_pass_the_trial(package, name, operation, dtype):
    """So that its tolerance and its cases are fair."""
    parts = trial_of(package, operation)
    x = torch.zeros(1, 16, dtype=dtype)
    assert parts['name'] == name and parts['trial'](x, x)[0].dtype is dtype

    def failure(run):
        return trust.failure(run, parts['reference'], lambda: parts['trial'](x, x), x)

    def run(*args):
        with use_backend('torch'):
            if package == 'emsa':
                return emsa(*args)
            return masa(*args, axial='axial' in name)

    assert failure(run) is None
    for wrong in (
        lambda *args: run(*args) * 1.2,
        lambda q, *args: run(q * 1.5, *args),
        lambda q, k, v, *args: run(q, k, v.roll(1, -2), *args),
        lambda *args: run(*args) + float('nan'),
        lambda q, k, v, *args: run(q, k, v.detach(), *args) + 0 * v.sum(),
    ):
        assert 'deviates by' in failure(wrong)


@pytest.mark.slow
@pytest.mark.parametrize('package, name, operation', KERNELS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_the_kernels_pass_the_trial(package, name, operation, dtype):
    """In Triton's interpreter."""
    pytest.importorskip('triton', '3.3')
    parts = trial_of(package, operation)
    x = torch.zeros(1, 16, dtype=dtype)
    trial = parts['trial']
    assert trust.failure(parts['run'], parts['reference'], lambda: trial(x, x), x) is None


def planted(error):
    def run(*_):
        raise error

    return run


@pytest.mark.parametrize(
    'run, reason',
    [
        (
            planted(RuntimeError('out of resource: shared memory\nmore')),
            'RuntimeError: out of res',
        ),
        (planted(FileNotFoundError('no C compiler')), 'FileNotFoundError: no C compiler'),
        (lambda *args: emsa_reference(*args) * 2, 'the result deviates by'),
    ],
)
def test_one_warning_and_pytorch_from_then_on(device, caplog, run, reason):
    parts = trial_of('emsa', '_mixed_heads')
    x = torch.zeros(1, 16, dtype=torch.float16)
    given = 'emsa_triton', run, emsa_reference, parts['trial'], x, x
    for _ in range(3):
        assert trust.refuse_untrusted(*given).startswith(reason)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert 'emsa_triton: the Triton kernel is not used for torch.float16 on cpu' in record.message
    assert reason in record.message and '\n' not in record.message


def test_a_kernel_is_tried_once_for_device_dtype_and_channels(device):
    calls = []

    def run(*args):
        calls.append(args[0].shape[-1])
        return emsa_reference(*args)

    trial = trial_of('emsa', '_mixed_heads')['trial']
    for dim in (16, 16, 32):
        x = torch.zeros(1, dim)
        assert trust.refuse_untrusted('emsa_triton', run, emsa_reference, trial, x, x) is None
    assert calls == [16, 32]


def test_not_during_the_capture_of_a_graph(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: True)
    x = device()
    for _ in range(2):
        reason = trust.refuse_untrusted('emsa_triton', None, None, None, x, x)
        assert reason == 'a CUDA graph is being captured before the kernel was tried'
    assert not trust._verdicts


def test_a_trial_leaves_random_numbers_and_gradient_mode_as_they_are(device):
    trial = trial_of('emsa', '_mixed_heads')['trial']
    state = torch.get_rng_state()
    with torch.inference_mode():
        x = torch.zeros(1, 16)
        found = trust.failure(emsa_reference, emsa_reference, lambda: trial(x, x), x)
        assert found is None
        assert torch.is_inference_mode_enabled()
    assert torch.equal(state, torch.get_rng_state())


def test_a_forced_backend_raises_what_the_trial_found(device, monkeypatch):
    implementation = importlib.import_module('mmrest.ops.masa')._full.implementations[0]
    x = device()
    key = 'masa_full_triton', x.device, x.dtype, 16, 16
    monkeypatch.setitem(trust._verdicts, key, 'the result deviates by 1.0e+00')
    with use_backend('triton'):
        assert implementation.refusal(x, x, x) == 'the result deviates by 1.0e+00'


def test_float32_is_left_to_pytorch_on_a_gpu(device):
    x = device(torch.float32)
    assert gpu.refuse_triton(x, x, x) == 'in float32 PyTorch is faster'
    with use_backend('triton'):
        assert gpu.refuse_triton(x, x, x) is None
    assert gpu.refuse_triton(*[device()] * 3) is None
    assert 'do not support float64' in gpu.refuse_triton(*[device(torch.float64)] * 3)


def test_plain_operations_for_small_maps_in_training_on_a_gpu(device):
    def refusal(queries, keys):
        q = device(shape=torch.Size((64, 4, queries, 32)))
        return _refuse_unless_small(q, device(shape=torch.Size((64, 4, keys, 32))))

    assert refusal(196, 49) is None
    assert refusal(16800, 1050) is not None
    with torch.no_grad():
        assert refusal(196, 49) is not None
    q, k, *_ = emsa_inputs(1, 4, 4, 2, 4)
    assert _refuse_unless_small(q, k) is not None  # on the CPU


@pytest.mark.parametrize('attention', [a for a in ATTENTIONS if a != 'emsa'])
def test_grids_have_no_limit(attention):
    """CUDA's grids end at 65,535 in all dimensions but the first."""
    pytest.importorskip('triton', '3.3')
    kernels = importlib.import_module('mmrest.ops.masa.triton')
    q = torch.empty(3000, 1, 4, 40, 16, device='meta')
    (first, *others), _ = kernels._layout(q, q, q, None if 'axial' in attention else 2)
    assert first == 3000 * 40 and max(others) < 65536
    kernels = importlib.import_module('mmrest.ops.emsa.triton')
    assert len(kernels._grid(10, q, q)) == 1
