"""Processes that a run forks: no handler of the run reaches them, and they end with it."""

import os
import signal
import subprocess
import sys
import time

import pytest

LOADER = """
import multiprocessing, sys, time
from mmengine.runner import Runner
from torch.utils.data import Dataset
from mmrest.engine.signals import isolate_children
from mmrest.engine.loading import ResumableLoader

class Numbers(Dataset):
    def __len__(self):
        return 1000
    def __getitem__(self, index):
        return index

isolate_children()
loader = Runner.build_dataloader(
    dict(dataset=Numbers(), sampler=dict(type='DefaultSampler'), batch_size=1, num_workers=2),
    seed=0,
)
batches = iter(ResumableLoader(loader, 0))
next(batches)
if 'fail' in sys.argv:
    raise RuntimeError('out of memory')
print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
time.sleep(100)
"""

POOL = """
import multiprocessing, time
from mmrest.engine.signals import isolate_children
from mmrest.engine.signals import StopRequest

isolate_children()
with StopRequest() as stop:
    pool = multiprocessing.get_context('fork').Pool(2)
    print(*pool.map(str, pool.map(abs, range(4))), flush=True)
    pool.terminate()
    pool.join()
    pool = multiprocessing.get_context('fork').Pool(2)
    pool.map(abs, range(4))
    print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
    time.sleep(100)
"""

needs_linux = pytest.mark.skipif(
    sys.platform != 'linux', reason='the kernel of Linux tells of a parent'
)


def start(program):
    return subprocess.Popen([sys.executable, '-c', program], stdout=subprocess.PIPE, text=True)


def is_there(pid):
    try:
        with open(f'/proc/{pid}/stat') as file:
            return file.read().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False


def kill(run, children):
    """Kill a run, and make sure that its children end."""
    assert len(children) == 2 and all(map(is_there, children))
    run.kill()
    run.wait()
    until = time.monotonic() + 60
    while any(map(is_there, children)):
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_run_that_fails_does_not_wait_for_its_workers():
    done = subprocess.run(
        [sys.executable, '-c', LOADER, 'fail'], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1 and 'out of memory' in done.stderr
    assert done.stderr.count('Traceback') == 1


@needs_linux
def test_workers_ignore_a_stop_and_end_with_the_run():
    run = start(LOADER)
    workers = run.stdout.readline().split()
    for pid in workers:
        os.kill(int(pid), signal.SIGTERM)
    time.sleep(1)
    kill(run, workers)


@needs_linux
def test_a_pool_can_be_terminated_and_ends_with_the_run():
    run = start(POOL)
    assert run.stdout.readline().split() == ['0', '1', '2', '3']
    kill(run, run.stdout.readline().split())
