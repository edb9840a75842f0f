"""Processes that a run forks: no handler of the run reaches them, and they end with it."""

import os
import signal
import subprocess
import sys
import time

import pytest

FAILING = """
from mmengine.runner import runner
from torch.utils.data import DataLoader
from mmrest.engine.children import isolate_children

def begin(index):
    runner.default_worker_init_fn(index, num_workers=1, rank=0, seed=0)

isolate_children()
batches = iter(DataLoader(range(100), num_workers=1, worker_init_fn=begin))
next(batches)
raise RuntimeError('out of memory')
"""

POOL = """
import multiprocessing, os, sys, time
from mmrest.engine.children import isolate_children
from mmrest.engine.stopping import StopRequest

if __name__ == '__main__':
    isolate_children()
    with StopRequest() as stop:
        pool = multiprocessing.get_context('fork').Pool(2)
        print(*pool.map(str, pool.map(abs, range(4))), flush=True)
        if 'wait' in sys.argv:
            print(*(process.pid for process in pool._pool), flush=True)
            time.sleep(100)
        pool.terminate()
        pool.join()
"""

LOADER = """
import time
from mmengine.runner import Runner
from torch.utils.data import Dataset
from mmrest.engine.children import isolate_children
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
workers = batches.gi_frame.f_locals['batches']._workers
print(*(worker.pid for worker in workers), flush=True)
time.sleep(100)
"""


def start(program, *args):
    return subprocess.Popen(
        [sys.executable, '-c', program, *args], stdout=subprocess.PIPE, text=True
    )


def is_there(pid):
    try:
        with open(f'/proc/{pid}/stat') as file:
            return file.read().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False


def test_a_run_that_fails_does_not_wait_for_its_workers():
    done = subprocess.run(
        [sys.executable, '-c', FAILING], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1 and 'out of memory' in done.stderr
    assert done.stderr.count('Traceback') == 1


def test_a_pool_of_a_run_that_listens_for_a_stop_is_terminated():
    run = start(POOL)
    assert run.communicate(timeout=300)[0].split() == ['0', '1', '2', '3'] and not run.returncode


@pytest.mark.skipif(sys.platform != 'linux', reason='the kernel of Linux tells of a parent')
@pytest.mark.parametrize('program', [POOL, LOADER], ids=['pool', 'loader'])
def test_nothing_stays_after_a_kill(program):
    run = start(program, 'wait')
    children = []
    while len(children) != 2:
        children = run.stdout.readline().split()
    assert all(is_there(pid) for pid in children)
    run.kill()
    run.wait()
    waited = 0.0
    while any(is_there(pid) for pid in children) and waited < 60:
        time.sleep(0.1)
        waited += 0.1
    assert not any(is_there(pid) for pid in children)


@pytest.mark.skipif(sys.platform != 'linux', reason='the kernel of Linux tells of a parent')
def test_workers_ignore_a_stop():
    run = start(LOADER)
    workers = run.stdout.readline().split()
    for pid in workers:
        os.kill(int(pid), signal.SIGTERM)
    time.sleep(1)
    assert all(is_there(pid) for pid in workers)
    run.kill()
    run.wait()
