"""Time and memory of networks."""

from concurrent.futures import Future

import pytest
import torch
from mmrest.apis.measure import OURS, PEERS, Job, build, kept_by, matrix_rates, seconds, step

from mmrest.ops import forced_backend, use_backend

SMALL = (64, 96)


@pytest.mark.parametrize('name', [*OURS, *PEERS])
def test_every_network_can_be_built(name):
    network = build(Job(name, None, SMALL))
    assert not network.training and sum(p.numel() for p in network.parameters()) > 1e6


def test_in_turn(monkeypatch):
    """Each job once to warm up, then one after the other in every round."""
    ran = []

    class Process:
        """Runs what it is given at once, in this process."""

        def __init__(self, name):
            self.name = name

        def __enter__(self):
            return self

        def __exit__(self, *_):
            ran.append('end')

        def submit(self, function):
            ran.append(self.name)
            future = Future()
            future.set_result(len(ran))
            return future

    monkeypatch.setattr('mmrest.apis.measure._process_of', lambda job: Process(job.name))
    jobs = [Job('rmt_t', 'torch', SMALL), Job('swin_t', None, SMALL)]
    times = seconds(jobs, repeats=2)
    assert ran == ['rmt_t torch', 'swin_t'] * 3 + ['end'] * 2
    assert times == {'rmt_t torch': [3, 5], 'swin_t': [4, 6]}


@pytest.mark.slow
def test_in_processes():
    """A failure in one is that of the call."""
    job = Job('rest_lite', 'torch', (32, 32))
    (times,) = seconds([job], repeats=2).values()
    assert len(times) == 2 and min(times) > 0
    with pytest.raises(KeyError, match='rest_x'):
        seconds([job, job._replace(network='rest_x')], repeats=1)


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


def test_matrix_rates():
    rates = matrix_rates('cpu', 'float32', size=256, repeats=3)
    assert list(rates) == ['product', '1x1 convolution']
    assert min(rates.values()) > 1e8
