"""Choosing an implementation."""

import logging
import threading

import pytest
import torch

from mmrest.ops import emsa, use_backend
from mmrest.ops.dispatch import (
    ENVIRONMENT_VARIABLE,
    Implementation,
    Operation,
    always,
    chosen_backend,
    exactly_backend,
    forced_backend,
)


def refuse(x):
    return f'{x} is odd' if x % 2 else None


@pytest.fixture
def halved():
    """An operation whose fast form takes even numbers alone."""
    return Operation(
        'halved',
        [
            Implementation('torch', lambda x: ('fast', x / 2), refuse),
            Implementation('reference', lambda x: ('plain', x / 2), always),
        ],
    )


def test_first_that_can(halved, caplog):
    caplog.set_level(logging.DEBUG, 'mmrest.ops')
    assert halved(4) == ('fast', 2)
    assert not caplog.messages
    assert halved(5) == halved(5) == ('plain', 2.5)
    assert caplog.messages == ['halved: torch cannot run: 5 is odd']


def test_forced(halved):
    with use_backend('reference'):
        assert halved(4) == ('plain', 2)
        with use_backend('torch'):
            assert halved(4) == ('fast', 2)
            with pytest.raises(ValueError, match="halved: the backend 'torch' cannot run: 5 is"):
                halved(5)
            with use_backend(None):
                assert forced_backend() == 'torch'
        assert halved(4) == ('plain', 2)
    assert halved(4) == ('fast', 2)


def test_forced_in_this_thread_alone(halved):
    """Contexts of several threads end in any order and leave nothing behind."""
    entered, leave, found = threading.Event(), threading.Event(), []

    def other():
        with use_backend('reference'):
            entered.set()
            leave.wait()
        found.append(forced_backend())

    thread = threading.Thread(target=other)
    with use_backend('torch'):
        thread.start()
        entered.wait()
        assert halved(4) == ('fast', 2)
    assert forced_backend() is None
    leave.set()
    thread.join()
    assert found == [None] and forced_backend() is None


def test_exactly_takes_a_choice_back():
    with use_backend('torch'):
        chosen = chosen_backend()
        with use_backend('reference'), exactly_backend(chosen):
            assert forced_backend() == 'torch'
        with exactly_backend(None):
            assert forced_backend() is None


def test_environment_variable(halved, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, 'reference')
    assert halved(4) == ('plain', 2)
    with use_backend('torch'):
        assert halved(4) == ('fast', 2)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, 'fast')
    with pytest.raises(
        ValueError, match=f"{ENVIRONMENT_VARIABLE}: unknown backend 'fast'; choose"
    ):
        halved(4)


def test_unknown():
    with pytest.raises(ValueError, match="use_backend: unknown backend 'cuda'; choose one of"):
        with use_backend('cuda'):
            pass


def test_graphs_hold_no_blocks():
    """A compiled network holds plain operations, not loops over blocks."""
    tensors = [torch.randn(1, 2, 6, 4) for _ in range(3)]
    mix = torch.randn(2, 2, 1, 1), torch.randn(2)
    traced = torch.jit.trace(emsa, (*tensors, *mix), check_trace=False)
    assert 'rsqrt' in str(traced.graph) and 'PythonOp' not in str(traced.graph)
    torch.testing.assert_close(traced(*tensors, *mix), emsa(*tensors, *mix))
