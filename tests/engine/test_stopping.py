"""Workers that ignore SIGTERM end with their run all the same."""

import subprocess
import sys

FAILING = """
from mmengine.runner import runner
from torch.utils.data import DataLoader
from mmrest.engine.stopping import have_workers_wait

def begin(index):
    runner.default_worker_init_fn(index, num_workers=1, rank=0, seed=0)

have_workers_wait()
batches = iter(DataLoader(range(100), num_workers=1, worker_init_fn=begin))
next(batches)
raise RuntimeError('out of memory')
"""


def test_a_run_that_fails_does_not_wait_for_its_workers():
    done = subprocess.run(
        [sys.executable, '-c', FAILING], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 1 and 'out of memory' in done.stderr
    assert done.stderr.count('Traceback') == 1
