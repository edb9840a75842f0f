"""Time and memory of networks and attentions."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from mmengine.utils import digit_version
from torch import nn

from mmrest.analysis import measure
from mmrest.analysis.measure import ATTENTIONS, Job, Step, measured
from mmrest.analysis.networks import PEERS
from mmrest.errors import UsageError
from mmrest.ops import forced_backend

SMALL = (64, 96)


def test_interleaved(monkeypatch):
    """Each job has a process and warms up once; then their steps are interleaved."""
    ran = []

    def timed_step(job):
        ran.append((threading.get_ident(), job.name))
        return len(ran)

    monkeypatch.setattr(measure, '_process', lambda: ThreadPoolExecutor(1))
    monkeypatch.setattr(measure, '_timed_step', timed_step)
    jobs = [Job('rmt_t', 'torch', SMALL), Job('swin_t', None, SMALL)]
    found = measured(jobs, repeats=2)
    assert [name for _, name in ran] == ['rmt_t torch', 'swin_t'] * 3 and len(set(ran)) == 2
    assert found == {'rmt_t torch': dict(seconds=[3, 5]), 'swin_t': dict(seconds=[4, 6])}


@pytest.mark.slow
def test_in_processes():
    """Errors of jobs are raised."""
    job = Job('emsa', 'torch', (32, 32))
    (found,) = measured([job], repeats=2, with_memory=True).values()
    assert len(found['seconds']) == 2 and min(found['seconds']) > 0 and found['saved'] == 0
    with pytest.raises(UsageError, match='rest_x is not a config or a backbone'):
        measured([job._replace(network='rest_x')], repeats=1)


def killed(job):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process(monkeypatch):
    """As by the system, if memory runs out."""
    monkeypatch.setattr(measure, '_timed_step', killed)
    with pytest.raises(UsageError, match=r'emsa torch at 32x48 was killed.*smaller --sizes'):
        measured([Job('emsa', 'torch', (32, 48))], repeats=1)


@pytest.mark.parametrize('train', [False, True])
@pytest.mark.parametrize('name', ['rest_lite', 'rmt_t', *PEERS, *ATTENTIONS])
def test_step_uses_the_backend_of_its_job(name, train):
    seen = []
    step = Step(Job(name, None if name in PEERS else 'reference', SMALL, train=train))
    step.network.register_forward_hook(
        lambda *_: seen.append((forced_backend(), torch.is_grad_enabled()))
    )
    step()
    assert seen == [(step.job.backend, train)] and step.network.training == train
    assert all(parameter.grad is None for parameter in step.network.parameters())


def test_saved_bytes_by_hand():
    """The input of the second layer and the mask of ReLU are counted once each."""
    step = Step(Job('rest_lite', None, SMALL, batch=2, train=True))
    step.network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 5, 1))
    assert step.saved_bytes() == 2 * 4 * 64 * 96 * 4


def test_checkpointing_saves_less():
    job = Job('rmt_t', 'torch', SMALL, train=True)
    assert 0 < Step(job._replace(with_cp=True)).saved_bytes() < Step(job).saved_bytes() / 2


@pytest.mark.parametrize('name', ATTENTIONS)
def test_only_the_reference_implementation_saves_maps(name):
    if name == 'masa_axial' and digit_version(torch.__version__) < digit_version('2.3'):
        pytest.skip('scaled_dot_product_attention with a mask saves the maps on a CPU')
    job = Job(name, 'reference', (256, 256), train=True)
    maps = ATTENTIONS[name].map_elements(job.size) * 4
    saved = Step(job).saved_bytes()
    assert saved >= maps > 0
    assert 0 < Step(job._replace(backend='torch')).saved_bytes() <= saved - maps


def test_time_of_kernels(monkeypatch):
    """As if operators of the CPU were kernels of a GPU."""
    cpu = SimpleNamespace(CUDA=torch.profiler.ProfilerActivity.CPU)
    monkeypatch.setattr(measure, 'ProfilerActivity', cpu)
    monkeypatch.setattr(measure, 'DeviceType', SimpleNamespace(CUDA=torch.autograd.DeviceType.CPU))
    monkeypatch.setattr(torch.cuda, 'synchronize', lambda: None)
    assert 0 < measure.gpu_seconds(Job('emsa', 'torch', (64, 64))) < 60
