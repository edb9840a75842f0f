"""Choosing an implementation, and what the Triton kernels refuse."""

import logging
import sys
import threading

import pytest
import torch

from mmrest.ops import dispatch, emsa, gpu, use_backend
from tests.ops.attentions import emsa_inputs


@pytest.fixture
def halved():
    """An operation whose fast form only supports even numbers."""
    forms = [
        ('torch', lambda x: ('fast', x / 2), lambda x: f'{x} is odd' if x % 2 else None),
        ('reference', lambda x: ('plain', x / 2)),
    ]
    return dispatch.Operation('halved', [dispatch.Implementation(*form) for form in forms])


def test_first_supported_backend(halved, caplog):
    caplog.set_level(logging.DEBUG, 'mmrest.ops')
    assert halved(4) == ('fast', 2)
    assert not caplog.messages
    assert halved(5) == halved(5) == ('plain', 2.5)
    assert caplog.messages == ['halved: torch cannot run: 5 is odd']


def test_forced(halved, monkeypatch):
    monkeypatch.setenv('MMREST_BACKEND', 'reference')
    assert halved(4) == ('plain', 2)
    with use_backend('torch'):
        assert halved(4) == ('fast', 2)
        with pytest.raises(ValueError, match="halved: the backend 'torch' cannot run: 5 is"):
            halved(5)
        with use_backend(None):
            chosen = dispatch.forced_backend()
            assert chosen == 'torch'
        with use_backend('reference'):
            assert halved(4) == ('plain', 2)
            with dispatch.exactly_backend(chosen):
                assert halved(4) == ('fast', 2)
    monkeypatch.delenv('MMREST_BACKEND')
    with use_backend('torch'), dispatch.exactly_backend(None):
        assert dispatch.forced_backend() is None
    assert dispatch.forced_backend() is None


def test_forced_in_this_thread_only(halved):
    """Contexts of several threads end in any order and leave nothing behind."""
    entered, leave, found = threading.Event(), threading.Event(), []

    def other():
        with use_backend('reference'):
            entered.set()
            leave.wait()
        found.append(dispatch.forced_backend())

    thread = threading.Thread(target=other)
    with use_backend('torch'):
        thread.start()
        entered.wait()
        assert halved(4) == ('fast', 2)
    assert dispatch.forced_backend() is None
    leave.set()
    thread.join()
    assert found == [None] and dispatch.forced_backend() is None


def test_unknown_backends(halved, monkeypatch):
    with pytest.raises(ValueError, match="use_backend: unknown backend 'cuda'; choose one of"):
        with use_backend('cuda'):
            pass
    monkeypatch.setenv('MMREST_BACKEND', 'fast')
    with pytest.raises(ValueError, match="MMREST_BACKEND: unknown backend 'fast'; choose"):
        halved(4)


def test_graphs_have_no_blocks():
    """A compiled network holds plain operations, not loops over blocks."""
    tensors = [tensor.float() for tensor in emsa_inputs(1, 6, 6, 2, 4)]
    traced = torch.jit.trace(emsa, tuple(tensors), check_trace=False)
    assert 'rsqrt' in str(traced.graph) and 'PythonOp' not in str(traced.graph)
    torch.testing.assert_close(traced(*tensors), emsa(*tensors))


def refusal(q, k, v):
    with use_backend('triton'):
        return gpu.refuse_triton(q, k, v)


def test_refusals_of_the_kernels(monkeypatch):
    pytest.importorskip('triton', '3.3')
    q, k, v, *_ = emsa_inputs(1, 5, 3, 2, 3)
    assert refusal(q, k, v) is None
    assert 'an NVIDIA GPU, and the device is cpu' in gpu.refuse_triton(q, k, v)
    assert refusal(q, k.float(), v).startswith(
        'the dtypes torch.float64, torch.float32 and torch.float64 differ'
    )
    assert refusal(*[torch.zeros(1, 2, 3, 130)] * 3) == 'a head of 130 channels is larger than 128'
    seen = []
    torch.jit.trace(lambda *x: seen.append(refusal(*x)) or x[0], (q, k, v), check_trace=False)
    assert seen == ['the network is being exported']
    monkeypatch.setattr(gpu, '_triton_refusal', gpu._triton_refusal.__wrapped__)  # not cached
    monkeypatch.setattr('triton.__version__', '3.2.0')
    assert refusal(q, k, v) == 'Triton 3.2.0 is older than 3.3'
    monkeypatch.setitem(sys.modules, 'triton', None)
    assert refusal(q, k, v) == 'Triton is not installed'
