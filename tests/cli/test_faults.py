"""Fault injection: killed runs and full disks lose nothing."""

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests.runs import DETECTOR, ROOT, train

pytestmark = [pytest.mark.slow, pytest.mark.faults]

# Random augmentation, dropped paths, sampled regions: whatever is drawn must be drawn again.
CONFIG = f"""{DETECTOR}
model['backbone']['drop_path_rate'] = 0.3
train_pipeline[2] = dict(
    type='RandomChoiceResize', scales=[(80, 60), (64, 48), (96, 72)], keep_ratio=True
)
train_pipeline.insert(3, dict(type='RandomFlip', prob=0.5))
train_pipeline.insert(4, dict(type='PhotoMetricDistortion'))
train_dataloader['dataset']['pipeline'] = train_pipeline
train_dataloader['batch_size'] = 1
train_cfg['max_epochs'] = 3
train_cfg['val_interval'] = 3
default_hooks['checkpoint'] = dict(
    _delete_=True, type='CheckpointHook', by_epoch=False, interval=1, max_keep_ckpts=2
)
log_processor = dict(window_size=1)
randomness = dict(seed=7)
"""
ITERATIONS = 12


def arguments(folder, coco_root, workers):
    loader = f'train_dataloader.num_workers={workers}'
    return [
        'tiny.py',
        *('--data-root', str(coco_root), '--work-dir', str(folder)),
        *('--resume', '--cfg-options', loader),
    ]


def losses(folder):
    """Return iteration -> all losses of all runs in a work dir."""
    found = {}
    for path in sorted(folder.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            try:
                values = json.loads(line)
            except ValueError:
                continue  # what a kill cut off
            if 'loss' in values:
                found.setdefault(values['iter'], set()).add(values['loss'])
    return found


def assert_same(folder, whole):
    """The work dir of a killed run equals the work dir of an uninterrupted one."""
    name = f'iter_{ITERATIONS}.pth'
    found, expected = (torch.load(f / name, weights_only=False) for f in (folder, whole))
    assert found['state_dict'].keys() == expected['state_dict'].keys()
    for key, tensor in expected['state_dict'].items():
        assert torch.equal(tensor, found['state_dict'][key]), key
    for number, state in expected['optimizer']['state'].items():
        for key, tensor in state.items():
            assert torch.equal(tensor, found['optimizer']['state'][number][key])
    known = losses(whole)
    assert sorted(known) == list(range(1, ITERATIONS + 1))
    assert all(values <= known[iteration] for iteration, values in losses(folder).items())
    kept = sorted(path.name for path in folder.glob('*.pth'))
    assert kept == [f'iter_{ITERATIONS - 1}.pth', name]


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp('faults')
    (home / 'tiny.py').write_text(CONFIG)
    return home


@pytest.fixture(scope='module')
def whole(home, coco_root):
    """Work dir of the uninterrupted run."""
    train(*arguments(home / 'whole', coco_root, 0), cwd=home, fresh=True)
    return home / 'whole'


def start(home, *args):
    """Start training with the threads of `train`, on which results depend."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / 'tools' / 'train.py'), *args],
        cwd=home,
        env={'OMP_NUM_THREADS': '2', **os.environ},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,  # so that its workers can be killed too
    )


def kill(home, folder, coco_root, workers, in_writing, rng):
    """Start or resume, and kill; return True if the run had ended before."""
    process = start(home, *arguments(folder, coco_root, workers))
    before = {path.name for path in folder.glob('*.pth')}
    seconds, writes = rng.uniform(0, 4), rng.randint(1, 6)
    due = None
    seen = set()
    while process.poll() is None:
        parts = {path.name for path in folder.glob('.iter_*.part')}
        seen |= parts
        if due is None and (parts or {path.name for path in folder.glob('*.pth')} - before):
            due = time.monotonic() + seconds
        if (in_writing and parts and len(seen) >= writes) or (
            not in_writing and due is not None and time.monotonic() > due
        ):
            os.killpg(process.pid, signal.SIGKILL)
            break
        time.sleep(0.0005 if in_writing else 0.01)
    status = process.wait()
    errors = process.stderr.read().decode()
    assert status in (0, -signal.SIGKILL), errors
    return status == 0


def test_kills(home, whole, coco_root):
    """With and without workers, in turn."""
    rng, workers = random.Random(2), itertools.cycle((0, 2))
    folders = (home / f'run_{number}' for number in itertools.count())
    folder, killed = next(folders), 0
    while killed < 12:
        if kill(home, folder, coco_root, next(workers), killed % 3 == 1, rng):
            assert_same(folder, whole)
            folder = next(folders)
        else:
            killed += 1
    train(*arguments(folder, coco_root, next(workers)), cwd=home, fresh=True)
    assert_same(folder, whole)
    assert not list(folder.glob('.*.part'))


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / 'disk'
    folder.mkdir()
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=8m', 'tmpfs', str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip('a small disk can be mounted by root alone')
    yield folder
    subprocess.run(['umount', str(folder)], check=True)


def test_a_full_disk(home, small_disk, coco_root):
    """The run ends with one line, and earlier checkpoints are complete."""
    folder = small_disk / 'run'
    process = start(home, *arguments(folder, coco_root, 0))
    while process.poll() is None and not list(folder.glob('iter_*.pth')):
        time.sleep(0.05)
    with contextlib.suppress(OSError), open(small_disk / 'of another program', 'wb') as file:
        while True:
            file.write(bytes(2**12))
            file.flush()
    status, errors = process.wait(), process.stderr.read().decode()
    assert status == 1, errors
    line = errors.strip().splitlines()[-1]
    assert 'No space left on device' in line or 'the disk is full' in line, errors
    assert 'Traceback' not in errors
    paths = sorted((small_disk / 'run').glob('*.pth'))
    assert paths and not list((small_disk / 'run').glob('.*.part'))
    for path in paths:
        assert torch.load(path, weights_only=False)['meta']['iter'] == int(path.stem[5:])


def test_preemption(home, whole, coco_root, tmp_path):
    """On SIGTERM, the run saves, logs it, and exits with status 75."""
    folder = tmp_path / 'run'
    rarely = 'default_hooks.checkpoint.interval=100'
    process = start(home, *arguments(folder, coco_root, 2), rarely)
    while process.poll() is None and not losses(folder):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)  # as torchrun and Slurm do: the workers are told too
    status, errors = process.wait(), process.stderr.read().decode()
    assert status == 75, errors
    assert 'interrupted.pth' in errors and '--resume' in errors
    assert 'Traceback' not in errors
    train(*arguments(folder, coco_root, 0), cwd=home, fresh=True)
    assert_same(folder, whole)
