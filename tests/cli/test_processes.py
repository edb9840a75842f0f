"""Runs of two processes, as a user starts them: trained, stopped, resumed, evaluated."""

import os
import pickle
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.cli.test_runs import metrics
from tests.forks import warm_folder
from tests.runs import DETECTOR, ROOT, SEGMENTOR, evaluate, lay_out

LARGE = DETECTOR.replace('maskrcnn_rmt_s_3x', 'maskrcnn_rmt_l_3x')
SHARDED = DETECTOR.replace('maskrcnn_rmt_s_3x', 'maskrcnn_rmt_l_3x_fsdp')
# A rate at which two steps move the weights.
MOVING = ('randomness.seed=1', 'optim_wrapper.optimizer.lr=0.01', 'param_scheduler.0.end=2')


def start(name, *args, cwd, path='', **variables):
    """Start one of the scripts; its processes have imported the libraries, see tests.forks."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    # As after `. .venv/bin/activate`: the scripts start the python of the PATH.
    folders = [path, str(warm_folder()), str(Path(sys.executable).parent), os.environ['PATH']]
    environ = dict(OMP_NUM_THREADS='1', PYTHON_EXEC=str(warm_folder() / 'python'))
    environ.update(PORT=port, MASTER_PORT=port, PATH=':'.join(filter(None, folders)), **variables)
    return subprocess.Popen(
        [str(ROOT / 'tools' / name), *map(str, args)], cwd=cwd, env={**os.environ, **environ},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def script(*args, status=0, **options):
    """Run one of the scripts; return its output."""
    job = start(*args, **options)
    output, _ = job.communicate(timeout=900)
    assert job.returncode == status, output
    return output


@pytest.fixture(scope='module')
def trained(tmp_path_factory, coco_root):
    """Folder with a detector that two processes train until they are stopped, and the output.

    It is evaluated after the second epoch, and stopped after some more.
    """
    folder = tmp_path_factory.mktemp('trained')
    (folder / 'tiny.py').write_text(LARGE)
    (folder / 'sharded.py').write_text(SHARDED)
    options = (
        *MOVING, 'train_cfg.max_epochs=1000', 'train_cfg.val_interval=2',
        'train_cfg.dynamic_intervals=[(4,1000)]',
    )  # fmt: skip
    common = ('--data-root', coco_root, '--cfg-options', *options)
    job, output = start('dist_train.sh', 'tiny.py', 2, *common, cwd=folder), ''
    try:
        while not re.search(r'Epoch\(train\) +\[ *3\]', output):
            line = job.stdout.readline()
            assert line, output
            output += line
        job.terminate()
        output += job.communicate(timeout=600)[0]
    finally:
        job.kill()
    assert job.returncode != 0
    return folder, output


def checkpoint(path):
    return torch.load(path, map_location='cpu', weights_only=False)


def test_training(trained):
    """A job saves before it stops on a signal."""
    folder, output = trained
    assert re.search(r'Epoch\(train\) +\[ *2\]\[1/1\]', output)  # of two batches each has one
    assert 'Distributed launcher: pytorch' in output and 'GPU number: 2' in output
    assert output.count('is 4 (2 x 2 processes)') == 1  # one process talks
    assert 'best so far: coco/segm_mAP' in output
    assert len(list((folder / 'work_dirs' / 'tiny').glob('*/*.log'))) == 1
    state = checkpoint(folder / 'work_dirs' / 'tiny' / 'interrupted.pth')
    stopped = set(re.findall(r'stopped by SIGTERM after iteration (\d+)', output))
    assert stopped == {str(state['meta']['iter'])} and len(state['mmrest']) == 2


def resumed(folder, coco_root, config):
    """Checkpoint of the second epoch, resumed from the first one of `trained`."""
    work_dir = folder / f'from_first_{config}'
    options = ('--cfg-options', 'train_cfg.max_epochs=2', 'train_cfg.val_interval=2', *MOVING)
    first = folder / 'work_dirs' / 'tiny' / 'epoch_1.pth'
    common = ('--data-root', coco_root, '--work-dir', work_dir, '--resume', first)
    output = script('dist_train.sh', config, 2, *common, *options, cwd=folder)
    assert 'resumed epoch: 1, iter: 1' in output
    return work_dir / 'epoch_2.pth'


@pytest.mark.slow
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
    """FSDP resumes from a checkpoint without FSDP, and saves the same format."""
    folder, _ = trained
    wanted = checkpoint(folder / 'work_dirs' / 'tiny' / 'epoch_2.pth')
    found = checkpoint(resumed(folder, coco_root, 'sharded.py'))
    assert (found['meta']['epoch'], found['meta']['iter']) == (2, 2)
    assert found['state_dict'].keys() == wanted['state_dict'].keys()
    close = dict(rtol=1e-4, atol=1e-5)
    for name, tensor in wanted['state_dict'].items():
        torch.testing.assert_close(found['state_dict'][name], tensor, **close)
    found, wanted = found['optimizer'], wanted['optimizer']
    assert len(found['param_groups']) == len(wanted['param_groups'])
    for group, like in zip(found['param_groups'], wanted['param_groups']):
        for name, number in zip(group['params'], like['params']):
            assert isinstance(name, str)
            mine, other = found['state'][name], wanted['state'][number]
            for moment in ('step', 'exp_avg', 'exp_avg_sq'):
                torch.testing.assert_close(mine[moment], other[moment], **close)


# Three images for two processes: one of them is given out twice, and must count once.
THREE = ('--cfg-options', 'test_dataloader.dataset.indices=3')


@pytest.mark.slow
def test_distributed_evaluation_of_a_detector(trained, coco_root):
    folder, _ = trained
    common = ('--data-root', coco_root, *THREE)
    weights = folder / 'work_dirs' / 'tiny' / 'epoch_2.pth'
    two, one = (('--work-dir', name, '--out', f'{name}.pkl') for name in ('two', 'one'))
    script('dist_test.sh', 'tiny.py', weights, 2, *two, *common, cwd=folder)
    evaluate('tiny.py', weights, *one, *common, cwd=folder)
    assert metrics(folder / 'two') == metrics(folder / 'one')
    assert max(metrics(folder / 'one').values()) > 0
    two, one = (pickle.loads((folder / f'{name}.pkl').read_bytes()) for name in ('two', 'one'))
    assert [s['img_id'] for s in two] == [s['img_id'] for s in one] and len(one) == 3


def programs(folder, **texts):
    """Return PATH with some commands."""
    for name, text in texts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return str(folder)


# Starts two processes here, as srun would.
SRUN = f"""#!{sys.executable}
import os, subprocess, sys
command = sys.argv[sys.argv.index('python'):]
job = dict(os.environ, SLURM_NTASKS='2', SLURM_NODELIST='here')
ranks = [dict(SLURM_PROCID=rank, SLURM_LOCALID=rank) for rank in '01']
children = [subprocess.Popen(command, env=dict(job, **rank)) for rank in ranks]
sys.exit(max(child.wait() for child in children))
"""


@pytest.mark.slow
def test_distributed_evaluation_of_a_segmentor(tmp_path, ade_root):
    """Processes of a Slurm job print it once."""
    weights = torch.load(lay_out(tmp_path, tiny=SEGMENTOR) / 'tiny.pth')
    # Towards the three classes that are drawn, so that the metrics are not all zero.
    weights['state_dict']['decode_head.conv_seg.bias'][:3] += 5
    torch.save(weights, tmp_path / 'tiny.pth')
    common = ('tiny.pth', '--data-root', ade_root)
    path = programs(tmp_path, srun=SRUN, scontrol='#!/bin/sh\necho 127.0.0.1\n')
    args = ('gpu', 'look', 'tiny.py', *common, '--work-dir', 'two', *THREE)
    output = script('slurm_test.sh', *args, cwd=tmp_path, path=path, GPUS='2')
    assert 'Distributed launcher: slurm' in output
    evaluate('tiny.py', *common, '--work-dir', 'one', *THREE, cwd=tmp_path)
    assert metrics(tmp_path / 'two') == metrics(tmp_path / 'one')
    assert metrics(tmp_path / 'one')['mIoU'] > 0


@pytest.mark.parametrize('name, args, variables, options, command', [
    (
        'train', ['my work', '--amp'], dict(GPUS='16', GPUS_PER_NODE='4', CPUS_PER_TASK='3'),
        'gpu:4 --ntasks=16 --ntasks-per-node=4 --cpus-per-task=3 --kill-on-bad-exit=1',
        '--work-dir my work --launcher slurm --amp',
    ),
    (
        'test', ['x.pth'], dict(GPUS='2', SRUN_ARGS='--time=5 --quiet'),
        'gpu:2 --ntasks=2 --ntasks-per-node=2 --cpus-per-task=5 --kill-on-bad-exit=1 --time=5 '
        '--quiet',
        'x.pth --launcher slurm',
    ),
])  # fmt: skip
def test_what_reaches_srun(tmp_path, name, args, variables, options, command):
    path = programs(tmp_path, srun='#!/bin/sh\necho srun "$@"\n')
    args = ('gpu', 'job', 'tiny.py', *args)
    output = script(f'slurm_{name}.sh', *args, cwd=tmp_path, path=path, **variables)
    assert output.strip() == (
        f'srun --partition=gpu --job-name=job --gres={options} '
        f'python -u {ROOT}/tools/{name}.py tiny.py {command}'
    )


@pytest.mark.parametrize('name, args', [
    ('dist_train.sh', ['tiny.py']), ('dist_train.sh', ['tiny.py', '0']),
    ('dist_test.sh', ['tiny.py', 'x.pth', 'two']), ('slurm_train.sh', ['gpu', 'job', 'tiny.py']),
    ('slurm_test.sh', ['gpu', 'job', 'tiny.py']),
])  # fmt: skip
def test_usage(tmp_path, name, args):
    output = script(name, *args, cwd=tmp_path, status=2)
    assert output.startswith(f'usage: {name} ') and 'By environment: ' in output


def test_an_error_of_all_ranks(tmp_path):
    output = script('dist_train.sh', 'absent.py', 2, cwd=tmp_path, status=1)
    lines = {line for line in output.splitlines() if line.startswith('train.py: error: ')}
    wanted = 'error: config absent.py not found'
    assert lines and all(wanted in line.replace('[rank 1] ', '') for line in lines)
