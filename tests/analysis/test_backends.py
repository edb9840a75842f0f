"""Comparison of the attention backends, on small maps and the CPU."""

import sys

import pytest
import torch

from mmrest.analysis import backends
from mmrest.analysis.backends import examine
from mmrest.analysis.measure import Attention
from mmrest.cli import check
from mmrest.ops import dispatch, emsa_reference, trust
from tests.torch_versions import needs_float16

SMALL = {
    'emsa': Attention(8, 2, 8, reduction=4),
    'masa_axial': Attention(4, 2, 8, axial=True),
    'masa_full': Attention(8, 2, 8),
}


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(backends, 'CASES', SMALL)
    monkeypatch.setattr(backends, 'INPUTS', [(2, (96, 64))])
    monkeypatch.setattr(backends, 'SECONDS', 0)


@needs_float16
def test_backends_on_a_cpu(monkeypatch):
    """The reference comes first, and PyTorch is the default; Triton needs a GPU."""
    monkeypatch.setattr(sys.modules['mmrest.ops.gpu'], 'refuse_triton', lambda *_: 'no GPU')
    for job, findings in examine(torch.device('cpu')):
        assert [each.backend for each in findings] == ['reference', 'torch', 'triton'], job
        assert [each.is_default for each in findings] == [False, True, False]
        assert not any(each.deviates for each in findings)
        *run, refused = findings
        assert all(each.error < 0.1 and min(each.forward, each.training) > 0 for each in run)
        assert refused.refusal == 'no GPU'


def test_a_failed_trial_is_a_deviation(monkeypatch):
    """Even though the backend only refuses, as for inputs that it does not support."""
    reason = 'the result deviates by 1.0e+00 of its largest value'
    monkeypatch.setattr(sys.modules['mmrest.ops.gpu'], 'refuse_triton', lambda *_: reason)
    monkeypatch.setitem(trust._verdicts, ('EMSA',), reason)
    _, findings = next(examine(torch.device('cpu')))
    assert [each.deviates for each in findings] == [False, False, True]
    assert findings[-1].refusal == reason


def fails(*_):
    raise RuntimeError('out of resources')


def wrong(*args):
    return emsa_reference(*args) * 1.01


@pytest.mark.parametrize('run, refusal', [(fails, 'out of resources'), (wrong, 'DEVIATES')])
def test_failures_and_deviations(run, refusal, monkeypatch, capsys):
    planted = dispatch.Implementation('torch', run)
    operation = sys.modules['mmrest.ops.emsa']._mixed_heads
    rest = operation.implementations[-1]
    monkeypatch.setattr(operation, 'implementations', (planted, rest))
    monkeypatch.setattr(backends, 'CASES', {'emsa': SMALL['emsa']})
    assert check.check_backends('cpu') == 1
    assert refusal in capsys.readouterr().out
