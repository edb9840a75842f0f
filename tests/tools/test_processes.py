"""Runs of two processes, as a user starts them: trained, stopped, gone on with, evaluated."""

import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.tools.runs import DETECTOR, ROOT, SEGMENTOR, evaluate, save_weights
from tests.tools.test_runs import metrics

LARGE = DETECTOR.replace('maskrcnn_rmt_s_3x', 'maskrcnn_rmt_l_3x')
SHARDED = DETECTOR.replace('maskrcnn_rmt_s_3x', 'maskrcnn_rmt_l_3x_fsdp')
# A rate at which two steps move the weights.
MOVING = ('randomness.seed=1', 'optim_wrapper.optimizer.lr=0.01', 'param_scheduler.0.end=2')


def environment(**variables):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    # As after `. .venv/bin/activate`: the scripts start the python of the PATH.
    path = [variables.pop('PATH', ''), str(Path(sys.executable).parent), os.environ['PATH']]
    variables['PATH'] = ':'.join(filter(None, path))
    return dict(os.environ, OMP_NUM_THREADS='1', PORT=port, MASTER_PORT=port, **variables)


def script(name, *args, cwd, check=True, **variables):
    """Run one of the scripts; returns the finished process, all that it printed as stdout."""
    done = subprocess.run(
        [str(ROOT / 'tools' / name), *map(str, args)],
        cwd=cwd,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    if check:
        assert done.returncode == 0, f'{name} failed:\n{done.stdout}'
    return done


@pytest.fixture(scope='module')
def trained(tmp_path_factory, coco_root):
    """Folder with a detector that two processes trained for two epochs, and the output."""
    folder = tmp_path_factory.mktemp('trained')
    (folder / 'tiny.py').write_text(LARGE)
    (folder / 'sharded.py').write_text(SHARDED)
    options = ('--cfg-options', 'train_cfg.max_epochs=2', *MOVING)
    done = script('dist_train.sh', 'tiny.py', 2, '--data-root', coco_root, *options, cwd=folder)
    return folder, done.stdout


def test_training(trained):
    folder, output = trained
    assert 'Epoch(train) [2][1/1]' in output  # of two batches each process has one
    assert 'Distributed launcher: pytorch' in output and 'GPU number: 2' in output
    assert output.count('total batch size is 4 (2 x 2 process(es))') == 1  # one process talks
    assert 'best so far: coco/segm_mAP' in output
    assert len(list((folder / 'work_dirs' / 'tiny').glob('*/*.log'))) == 1


def resumed(folder, coco_root, config):
    """Checkpoint of the second epoch of a run that goes on from the first one of `trained`."""
    work_dir = folder / f'from_first_{config}'
    options = ('--cfg-options', 'train_cfg.max_epochs=2', *MOVING)
    first = folder / 'work_dirs' / 'tiny' / 'epoch_1.pth'
    common = ('--data-root', coco_root, '--work-dir', work_dir, '--resume', first)
    done = script('dist_train.sh', config, 2, *common, *options, cwd=folder)
    assert 'resumed epoch: 1, iter: 1' in done.stdout
    return work_dir / 'epoch_2.pth'


def checkpoint(path):
    return torch.load(path, map_location='cpu', weights_only=False)


def test_resumed_training_gives_the_same(trained, coco_root):
    folder, _ = trained
    wanted = checkpoint(folder / 'work_dirs' / 'tiny' / 'epoch_2.pth')
    found = checkpoint(resumed(folder, coco_root, 'tiny.py'))
    before = checkpoint(folder / 'work_dirs' / 'tiny' / 'epoch_1.pth')
    assert len(found['mmrest']) == 2  # the random states of each process
    moved = 0
    for name, tensor in wanted['state_dict'].items():
        assert torch.equal(found['state_dict'][name], tensor), name
        moved += not torch.equal(before['state_dict'][name], tensor)
    assert moved > 100


@pytest.mark.slow
def test_sharded_training_gives_the_same(trained, coco_root):
    """Under FSDP, from a checkpoint without it, to one that is again as those without it."""
    folder, _ = trained
    wanted = checkpoint(folder / 'work_dirs' / 'tiny' / 'epoch_2.pth')
    found = checkpoint(resumed(folder, coco_root, 'sharded.py'))
    assert (found['meta']['epoch'], found['meta']['iter']) == (2, 2)
    assert found['state_dict'].keys() == wanted['state_dict'].keys()
    for name, tensor in wanted['state_dict'].items():
        torch.testing.assert_close(found['state_dict'][name], tensor, rtol=1e-4, atol=1e-5)
    found, wanted = found['optimizer'], wanted['optimizer']
    assert len(found['param_groups']) == len(wanted['param_groups'])
    for group, like in zip(found['param_groups'], wanted['param_groups']):
        for name, number in zip(group['params'], like['params']):
            assert isinstance(name, str)
            for moment in ('step', 'exp_avg', 'exp_avg_sq'):
                torch.testing.assert_close(
                    found['state'][name][moment],
                    wanted['state'][number][moment],
                    rtol=1e-4,
                    atol=1e-5,
                )


# Three images for two processes: one of them is given out twice, and must count once.
THREE = ('--cfg-options', 'test_dataloader.dataset.indices=3')


@pytest.mark.slow
def test_detector_is_evaluated_as_by_one(trained, coco_root):
    folder, _ = trained
    weights = folder / 'work_dirs' / 'tiny' / 'epoch_2.pth'
    common = ('--data-root', coco_root)
    script(
        'dist_test.sh', 'tiny.py', weights, 2, *common, '--work-dir', 'two', '--out', 'two.pkl',
        *THREE, cwd=folder,
    )  # fmt: skip
    evaluate(
        'tiny.py', weights, *common, '--work-dir', 'one', '--out', 'one.pkl', *THREE, cwd=folder
    )
    assert metrics(folder / 'two') == metrics(folder / 'one')
    assert max(metrics(folder / 'one').values()) > 0
    two, one = (pickle.loads((folder / f'{name}.pkl').read_bytes()) for name in ('two', 'one'))
    assert [s['img_id'] for s in two] == [s['img_id'] for s in one] and len(one) == 3


# Starts two processes where the options are those of a Slurm job of two; else as srun would say.
SRUN = f"""#!{sys.executable}
import os, subprocess, sys
print('srun', *sys.argv[1:], flush=True)
command = sys.argv[sys.argv.index('python'):]
children = [
    subprocess.Popen(
        command,
        env=dict(
            os.environ, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank), SLURM_NTASKS='2',
            SLURM_NODELIST='here',
        ),
    )
    for rank in range(2)
]
sys.exit(max(child.wait() for child in children))
"""


@pytest.fixture
def slurm(tmp_path):
    """PATH with an srun that starts two processes here."""
    folder = tmp_path / 'slurm'
    folder.mkdir()
    (folder / 'srun').write_text(SRUN)
    (folder / 'scontrol').write_text('#!/bin/sh\necho 127.0.0.1\n')
    for path in folder.iterdir():
        path.chmod(0o755)
    return str(folder)


@pytest.mark.slow
def test_segmentor_is_evaluated_as_by_one(tmp_path, ade_root, slurm):
    """By the processes of a Slurm job."""
    (tmp_path / 'tiny.py').write_text(SEGMENTOR)
    save_weights(tmp_path / 'weights.pth', tmp_path / 'tiny.py')
    weights = torch.load(tmp_path / 'weights.pth')
    # Towards the three classes that are drawn, so that the figures are not all zero.
    weights['state_dict']['decode_head.conv_seg.bias'][:3] += 5
    torch.save(weights, tmp_path / 'weights.pth')
    common = ('weights.pth', '--data-root', ade_root)
    done = script(
        'slurm_test.sh', 'gpu', 'look', 'tiny.py', *common, '--work-dir', 'two', *THREE,
        cwd=tmp_path, PATH=slurm, GPUS='2', SRUN_ARGS='--time=5 --quiet',
    )  # fmt: skip
    wanted = (
        'srun --partition=gpu --job-name=look --gres=gpu:2 --ntasks=2 --ntasks-per-node=2 '
        '--cpus-per-task=5 --kill-on-bad-exit=1 --time=5 --quiet python -u '
    )
    assert wanted in done.stdout and 'Distributed launcher: slurm' in done.stdout
    evaluate('tiny.py', *common, '--work-dir', 'one', *THREE, cwd=tmp_path)
    assert metrics(tmp_path / 'two') == metrics(tmp_path / 'one')
    assert metrics(tmp_path / 'one')['mIoU'] > 0


def test_slurm_train(tmp_path, slurm):
    """What reaches srun, and an error that both processes meet."""
    done = script(
        'slurm_train.sh', 'gpu', 'learn', 'absent.py', 'my work', '--amp',
        cwd=tmp_path, check=False, PATH=slurm, GPUS='16', GPUS_PER_NODE='4', CPUS_PER_TASK='3',
    )  # fmt: skip
    wanted = (
        'srun --partition=gpu --job-name=learn --gres=gpu:4 --ntasks=16 --ntasks-per-node=4 '
        f'--cpus-per-task=3 --kill-on-bad-exit=1 python -u {ROOT}/tools/train.py absent.py '
        '--work-dir my work --launcher slurm --amp'
    )
    assert done.returncode == 1 and wanted in done.stdout.splitlines()
    assert 'train.py: error: config absent.py does not exist' in done.stdout


@pytest.mark.parametrize(
    'name, args',
    [
        ('dist_train.sh', []),
        ('dist_train.sh', ['tiny.py']),
        ('dist_train.sh', ['tiny.py', '--resume']),
        ('dist_train.sh', ['tiny.py', '0']),
        ('dist_test.sh', ['tiny.py', '2']),
        ('dist_test.sh', ['tiny.py', 'x.pth', 'two']),
        ('slurm_train.sh', ['gpu', 'job', 'tiny.py']),
        ('slurm_test.sh', ['gpu', 'job', 'tiny.py']),
    ],
)
def test_usage(tmp_path, name, args):
    done = script(name, *args, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stdout.startswith(f'usage: {name} ') and 'By environment: ' in done.stdout


def test_an_error_of_all_ranks(tmp_path):
    (tmp_path / 'tiny.py').write_text(DETECTOR)
    done = script('dist_train.sh', 'tiny.py', 2, cwd=tmp_path, check=False)
    assert done.returncode == 1
    lines = {line for line in done.stdout.splitlines() if line.startswith('train.py: error: ')}
    said = 'data folder (train_dataloader.dataset.data_root)'
    assert lines and all(f'error: {said}' in line.replace('[rank 1] ', '') for line in lines)


def children(pid):
    return map(int, Path(f'/proc/{pid}/task/{pid}/children').read_text().split())


def rank_of(pid):
    environ = Path(f'/proc/{pid}/environ').read_bytes().split(b'\0')
    return next((int(e[5:]) for e in environ if e.startswith(b'RANK=')), None)


@pytest.mark.skipif(not Path('/proc/self/environ').is_file(), reason='finds processes in /proc')
@pytest.mark.parametrize(
    'how', [pytest.param(signal.SIGKILL, marks=pytest.mark.slow), signal.SIGTERM]
)
def test_stopped(tmp_path, coco_root, how):
    """A process that dies takes the others with it; a job that is told to stop saves first."""
    (tmp_path / 'tiny.py').write_text(DETECTOR)
    command = [
        ROOT / 'tools' / 'dist_train.sh', 'tiny.py', '2', '--data-root', coco_root,
        '--cfg-options', 'train_cfg.max_epochs=10000', 'train_cfg.val_interval=10000',
        'default_hooks.checkpoint.interval=10000',
    ]  # fmt: skip
    with open(tmp_path / 'output', 'w') as output:
        job = subprocess.Popen(
            command, cwd=tmp_path, env=environment(), stdout=output, stderr=output
        )
    try:
        until = time.monotonic() + 600
        while not re.search(r'Epoch\(train\) +\[ *3\]', (tmp_path / 'output').read_text()):
            assert job.poll() is None and time.monotonic() < until
            time.sleep(0.2)
        ranks = {rank_of(pid): pid for pid in children(job.pid)}
        assert {0, 1} <= ranks.keys()
        os.kill(ranks[1] if how == signal.SIGKILL else job.pid, how)
        assert job.wait(timeout=900) != 0
        for pid in (ranks[0], ranks[1]):
            assert not Path(f'/proc/{pid}').exists()
    finally:
        if job.poll() is None:
            job.terminate()
            job.wait()
    saved = tmp_path / 'work_dirs' / 'tiny' / 'interrupted.pth'
    assert saved.is_file() is (how == signal.SIGTERM)
    if how == signal.SIGTERM:
        state = checkpoint(saved)
        said = re.findall(
            r'stopped after iteration (\d+) by SIGTERM', (tmp_path / 'output').read_text()
        )
        assert said == [str(state['meta']['iter'])] and len(state['mmrest']) == 2
