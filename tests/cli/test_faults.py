"""Fault injection: killed runs and full disks lose nothing, and no process is left."""

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.runs import DETECTOR, ROOT, save_weights, train

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
    common = ('--data-root', str(coco_root), '--work-dir', str(folder), '--resume')
    return ['tiny.py', *common, '--cfg-options', f'train_dataloader.num_workers={workers}']


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
    for name, text in (('tiny', CONFIG), ('evaluated', EVALUATED), ('forking', FORKING)):
        (home / f'{name}.py').write_text(text)
    return home


@pytest.fixture(scope='module')
def whole(home, coco_root):
    """Work dir of the uninterrupted run."""
    train(*arguments(home / 'whole', coco_root, 0), cwd=home, fresh=True)
    return home / 'whole'


def start(home, *args, program='train'):
    """Start a script with the threads of `train`, on which results depend."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / 'tools' / f'{program}.py'), *args], cwd=home,
        env={'OMP_NUM_THREADS': '2', **os.environ, 'PYTHONPATH': f'{ROOT}:{home}'},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        start_new_session=True,  # so that its workers can be killed too
    )  # fmt: skip


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


@pytest.mark.parametrize('number, ends', [(signal.SIGTERM, 75), (signal.SIGINT, -signal.SIGINT)])
def test_preemption(home, whole, coco_root, tmp_path, number, ends):
    """On SIGTERM and Ctrl-C, the run saves, and logs it."""
    folder = tmp_path / 'run'
    rarely = 'default_hooks.checkpoint.interval=100'
    process = start(home, *arguments(folder, coco_root, 2), rarely)
    while process.poll() is None and not losses(folder):
        time.sleep(0.05)
    os.killpg(process.pid, number)  # as torchrun, Slurm and terminals: the workers are told too
    status, errors = process.wait(), process.stderr.read().decode()
    assert status == ends, errors
    assert 'interrupted.pth' in errors and '--resume' in errors
    assert 'Traceback' not in errors
    train(*arguments(folder, coco_root, 0), cwd=home, fresh=True)
    assert_same(folder, whole)


# Beside mmdet's VOCMetric: a metric whose pool is closed and joined, as in mmdet's panoptic one,
# and a hook whose pool is terminated.
FORKING = """
import multiprocessing

from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, METRICS


@METRICS.register_module()
class Boxes(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results += [len(sample['pred_instances']['scores']) for sample in data_samples]

    def compute_metrics(self, results):
        workers = multiprocessing.Pool(2)
        parts = [workers.apply_async(sum, (results[start::2],)) for start in range(2)]
        workers.close()
        workers.join()
        return dict(boxes=sum(part.get() for part in parts))


@HOOKS.register_module()
class PoolHook(Hook):
    def after_val_epoch(self, runner, metrics=None):
        with multiprocessing.Pool(2) as pool:
            assert pool.map(abs, range(-9, 0)) == list(range(9, 0, -1))

    after_test_epoch = after_val_epoch
"""
EVALUATED = f"""{CONFIG}
custom_imports = dict(imports=['mmrest', 'forking'], allow_failed_imports=False)
test_pipeline.insert(2, dict(type='LoadAnnotations', with_bbox=True))
val_dataloader['dataset']['pipeline'] = test_pipeline
val_evaluator = [dict(type='VOCMetric'), dict(type='Boxes')]
test_dataloader, test_evaluator = val_dataloader, val_evaluator
custom_hooks = [dict(type='PoolHook')]
train_cfg['max_epochs'] = 4
train_cfg['val_interval'] = 1
train_cfg['dynamic_intervals'] = None
default_hooks['checkpoint'] = dict(_delete_=True, type='CheckpointHook', interval=4)
"""


@pytest.mark.parametrize('is_stopped', [False, True])
def test_evaluations_that_fork(home, coco_root, is_stopped):
    """All 30 runs end, even if they are asked to stop."""
    rng = random.Random(3)
    statuses = []
    for number in range(30):
        folder = home / f'evaluated_{is_stopped}_{number}'
        process = start(
            home, 'evaluated.py', '--data-root', str(coco_root), '--work-dir', str(folder)
        )
        while is_stopped and process.poll() is None and not losses(folder):
            time.sleep(0.01)
        if is_stopped:
            time.sleep(rng.uniform(0, 2))  # training, evaluating, or saving
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        until = time.monotonic() + 300
        while processes(process.pid) and time.monotonic() < until:
            process.poll()
            time.sleep(0.1)
        hung = processes(process.pid)
        if hung:
            os.killpg(process.pid, signal.SIGKILL)
        statuses.append(process.wait())
        # The handler is removed at the end of the training, when all is saved.
        ended = (0, 75, -signal.SIGTERM) if is_stopped else (0,)
        assert not hung and statuses[-1] in ended, process.stderr.read().decode()
        assert statuses[-1] != -signal.SIGTERM or (folder / 'epoch_4.pth').exists()
    if is_stopped:
        assert 75 in statuses


def processes(session):
    """Return the IDs of the live processes of a session."""
    found = []
    for stat in Path('/proc').glob('[0-9]*/stat'):
        with contextlib.suppress(OSError):
            state, _, _, of_session = stat.read_text().rpartition(')')[2].split()[:4]
            if int(of_session) == session and state != 'Z':
                found.append(stat.parent.name)
    return found


@pytest.mark.skipif(sys.platform != 'linux', reason='PR_SET_PDEATHSIG is Linux')
@pytest.mark.parametrize('program', ['train', 'test', 'infer', 'benchmark'])
def test_no_process_is_left(home, coco_root, program, monkeypatch):
    """Ten seconds after SIGKILL, no process is left, at seven random moments."""
    monkeypatch.syspath_prepend(home)
    if not (home / 'weights.pth').exists():
        save_weights(home / 'weights.pth', home / 'evaluated.py')
    workers = ('train', 'val') if program == 'train' else ('test',)
    options = ('--cfg-options', *(f'{phase}_dataloader.num_workers=2' for phase in workers))
    common = ('--data-root', str(coco_root), '--work-dir', str(home / f'left_{program}'))
    arguments = dict(
        train=('evaluated.py', *common, *options, 'train_cfg.max_epochs=1000'),
        test=('evaluated.py', 'weights.pth', *common, *options),
        infer=('evaluated.py', 'weights.pth', str(coco_root / 'val2017'), '--overwrite'),
        benchmark=('networks', 'rest_lite', '--sizes', '64x64', '--repeats', '99'),
    )
    begin = time.monotonic()
    process = start(home, *arguments[program], program=program)
    if program == 'train':
        while process.poll() is None and not losses(home / 'left_train'):
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    assert process.wait() in (0, -signal.SIGKILL), process.stderr.read().decode()
    length = 1.3 * (time.monotonic() - begin)
    rng = random.Random(4)
    for _ in range(7):
        process = start(home, *arguments[program], program=program)
        time.sleep(rng.uniform(0, length))
        process.kill()
        process.wait()
        until = time.monotonic() + 10
        while processes(process.pid):
            assert time.monotonic() < until
            time.sleep(0.1)
