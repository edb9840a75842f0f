"""Time and memory of networks."""

import pytest
import torch

from mmrest.apis.measure import OURS, PEERS, Job, build, kept_by, matrix_rate, seconds, step
from mmrest.ops import forced_backend, use_backend

SMALL = (64, 96)


@pytest.mark.parametrize('name', [*OURS, *PEERS])
def test_every_network_can_be_built(name):
    network = build(Job(name, None, SMALL))
    assert not network.training and sum(p.numel() for p in network.parameters()) > 1e6


def test_in_turn(monkeypatch):
    """Each job once to warm up, then one after the other in every round."""
    ran = []

    def recorded(job, network):
        return lambda: ran.append(job.name)

    monkeypatch.setattr('mmrest.apis.measure.step', recorded)
    monkeypatch.setattr('mmrest.apis.measure.build', lambda job: None)
    jobs = [Job('rmt_t', 'torch', SMALL), Job('swin_t', None, SMALL)]
    times = seconds(jobs, repeats=2)
    assert ran == ['rmt_t torch', 'swin_t'] * 3
    assert {name: len(of_job) for name, of_job in times.items()} == {'rmt_t torch': 2, 'swin_t': 2}


@pytest.mark.parametrize('train', [False, True])
def test_step_uses_the_backend_of_its_job(train):
    seen = []
    job = Job('rest_lite', 'reference', SMALL, train=train)
    network = build(job)
    network.register_forward_hook(
        lambda *_: seen.append((forced_backend(), torch.is_grad_enabled()))
    )
    with use_backend('torch'):
        step(job, network)()
    assert seen == [('reference', train)]


def test_kept_bytes_by_hand():
    """The input of the second layer and the sign that ReLU looks at, once each."""
    first, second = torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(4, 5, 1)
    network = torch.nn.Sequential(first, torch.nn.ReLU(), second)
    job = Job('rest_lite', None, SMALL, batch=2, train=True)
    # The loss takes a sequence of maps, and iterates over the batch here.
    assert kept_by(job, network) == 2 * 4 * 64 * 96 * 4


def test_checkpointing_keeps_less():
    kept = {
        with_cp: kept_by(job, build(job))
        for with_cp in (False, True)
        for job in [Job('rmt_t', 'torch', SMALL, train=True, with_cp=with_cp)]
    }
    assert 0 < kept[True] < kept[False] / 2


def test_matrix_rate():
    assert matrix_rate('cpu', 'float32', size=256, repeats=3) > 1e8
