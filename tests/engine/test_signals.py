"""Child processes of a run do not inherit its handlers, and end with it."""

import os
import signal
import subprocess
import sys
import time

import pytest

from mmrest.engine import signals
from tests.forks import warm_folder

LOADER = """
import multiprocessing, os, sys, time
from mmengine.runner import Runner
from mmrest.engine.data_loading import ResumableLoader
from mmrest.engine.signals import isolate_children

isolate_children()
cfg = dict(dataset=range(1000), sampler=dict(type='DefaultSampler'), batch_size=1, num_workers=2)
batches = iter(ResumableLoader(Runner.build_dataloader(cfg, seed=0), 0))
next(batches)
if 'fail' in sys.argv:
    raise RuntimeError('out of memory')
print(os.getpid(), *(worker.pid for worker in multiprocessing.active_children()), flush=True)
time.sleep(100)
"""

POOL = """
import multiprocessing, os, time
from mmrest.engine.signals import StopRequest

with StopRequest() as stop:
    pool = multiprocessing.get_context('fork').Pool(2)
    assert pool.map(str, pool.map(abs, range(4))) == ['0', '1', '2', '3']
    pool.terminate()
    pool.join()
    pool = multiprocessing.get_context('fork').Pool(2)
    pool.map(abs, range(4))
    print(os.getpid(), *(worker.pid for worker in multiprocessing.active_children()), flush=True)
    time.sleep(100)
"""

RANK = """
import os, time
from mmengine.config import Config
from mmrest.engine.distributed import join_processes

join_processes(Config(dict(launcher='pytorch')))
os.write(1, b'%d\\n' % os.getpid())  # at once, because both ranks write
time.sleep(100)
"""


TERMINATED = """
import os, signal, time
from mmrest.engine.signals import StopRequest

with StopRequest() as stop:
    for _ in range(100):
        child = os.fork()
        if child == 0:
            time.sleep(100)
        os.kill(child, signal.SIGTERM)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM
    assert not stop.asked()
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.asked()
"""


LATER = """
import ctypes, os, signal
from mmrest.engine.signals import StopRequest

with StopRequest():
    pass
signal.signal(signal.SIGTERM, print)
child = os.fork()
if child == 0:
    at_death = ctypes.c_int()
    ctypes.CDLL(None).prctl(2, ctypes.byref(at_death))  # PR_GET_PDEATHSIG
    os._exit(signal.getsignal(signal.SIGTERM) is not print or at_death.value)
assert os.waitpid(child, 0)[1] == 0
"""


INTERRUPTED = """
import os, signal, sys, time
from mmrest.engine.signals import StopRequest

number = signal.Signals[sys.argv[1]]
# Shells ignore them in the background, and nohup.
for each in (number, signal.SIGINT):
    signal.signal(each, signal.default_int_handler)
with StopRequest() as stop:
    child = os.fork()
    if child == 0:
        time.sleep(1)
        os._exit(7)
    os.kill(child, number)
    assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 7
    assert not stop.asked()
    os.kill(os.getpid(), number)
    assert stop.asked() and stop.name == dict(SIGINT='Ctrl-C').get(number.name, number.name)
    print('goes on', flush=True)
    if number == signal.SIGHUP:  # the shell and the kernel send one each
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGINT)
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)
    except KeyboardInterrupt:
        os._exit(3)
"""


@pytest.mark.parametrize('name', ['SIGINT', 'SIGHUP'])
def test_terminal_asks_once(name):
    """Children go on, as a terminal sends it to them, too; the second Ctrl-C ends the process.

    If the terminal, or the tee of the output, is gone, the run can still save.
    """
    python = [str(warm_folder() / 'python'), '-c', INTERRUPTED, name]
    done = subprocess.run(python, timeout=60, capture_output=True, text=True)
    assert done.returncode == 3 and 'Ctrl-C again' in done.stderr
    reading, writing = os.pipe()
    os.close(reading)
    assert subprocess.run(python, timeout=60, stdout=writing, stderr=writing).returncode == 3
    os.close(writing)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_ignored_signals(number):
    """Shells ignore Ctrl-C for what a script starts in the background; schedulers send SIGTERM."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with signals.StopRequest() as stop:
            signal.raise_signal(number)
            assert stop.asked() == (number == signal.SIGTERM)
    finally:
        signal.signal(number, before)


def test_ranks_ask_each_other(monkeypatch):
    """Launchers repeat the signal; before an evaluation, ranks do not wait for a tenth call."""
    monkeypatch.setattr(signals, 'get_world_size', lambda: 2)
    with signals.StopRequest() as stop:
        assert not stop.asked()
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
        assert not stop.asked() and stop.asked(at_once=True)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize('seconds, exchanges', [(0.01, 3), (0.25, 5), (4, 21)])
def test_slow_ranks_ask_each_other_more_often(monkeypatch, seconds, exchanges):
    """torchrun kills 30 seconds after the signal."""
    now, found = [0.0], []
    monkeypatch.setattr(signals, 'get_world_size', lambda: 2)
    monkeypatch.setattr(signals, 'all_reduce', lambda *args: found.append(args))
    monkeypatch.setattr(signals.time, 'monotonic', lambda: now[0])
    with signals.StopRequest() as stop:
        for _ in range(21):
            now[0] += seconds
            stop.asked()
    assert len(found) == exchanges


@pytest.mark.skipif(sys.platform != 'linux', reason='PR_SET_PDEATHSIG is Linux')
def test_children_after_a_run_are_left_as_they_are():
    python = [str(warm_folder() / 'python'), '-c', LATER]
    assert subprocess.run(python, timeout=60).returncode == 0


def test_a_child_can_be_terminated_as_soon_as_it_is_forked():
    """As by a pool on a busy machine, whose worker has not run yet."""
    python = [str(warm_folder() / 'python'), '-c', TERMINATED]
    assert subprocess.run(python, timeout=60).returncode == 0


def test_failed_run_does_not_wait_for_workers():
    done = subprocess.run(
        [sys.executable, '-c', LOADER, 'fail'], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1 and 'out of memory' in done.stderr
    assert done.stderr.count('Traceback') == 1


def is_there(pid):
    try:
        with open(f'/proc/{pid}/stat') as file:
            return file.read().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux signals the end of a parent')
@pytest.mark.parametrize('program', [LOADER, POOL], ids=['loader', 'pool'])
def test_children_end_with_a_killed_run(program):
    """Workers of a loader ignore SIGTERM; a pool can be terminated."""
    python = [str(warm_folder() / 'python'), '-c', program]
    with subprocess.Popen(python, stdout=subprocess.PIPE, text=True) as run:
        pid, *children = map(int, run.stdout.readline().split())
        if program is LOADER:
            for child in children:
                os.kill(child, signal.SIGTERM)
            time.sleep(1)
        assert len(children) == 2 and all(map(is_there, children))
        os.kill(pid, signal.SIGKILL)
    await_end(children)


def await_end(processes):
    until = time.monotonic() + 60
    while any(map(is_there, processes)):
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux signals the end of a parent')
def test_ranks_end_with_torchrun(tmp_path):
    (tmp_path / 'rank.py').write_text(RANK)
    torchrun = [sys.executable, '-m', 'torch.distributed.run', '--standalone']
    command = [*torchrun, '--nproc_per_node', '2', 'rank.py']
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as run:
        ranks = [int(run.stdout.readline()) for _ in range(2)]
        run.kill()
        await_end(ranks)
