"""What two processes compute together, and what the configs of their runs come to."""

import pytest
import torch
from mmengine.config import Config
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from mmrest import RMT, ResT
from mmrest.engine import processes
from mmrest.engine.errors import UsageError

ARCH = dict(dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4))


def gradients_of(family, images, wrap):
    """Gradients of a mean over the outputs, by name."""
    torch.manual_seed(0)
    backbone = family(ARCH, norm_eval=True, drop_path_rate=0.0).double()
    backbone.train()
    wrapped = wrap(backbone)
    # A mean over each map, so that the mean over the processes is that over the whole batch.
    sum(output.square().mean() for output in wrapped(images)).backward()
    return {name: p.grad for name, p in backbone.named_parameters()}


def half(rank, folder):
    """One of two processes, with its half of the batch."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/meeting', rank=rank, world_size=2
    )
    mine = torch.load(folder / 'images.pth')[2 * rank : 2 * rank + 2]
    found = [gradients_of(family, mine, DistributedDataParallel) for family in (ResT, RMT)]
    torch.save(found, folder / f'{rank}.pth')
    distributed.destroy_process_group()


def test_gradients_of_two_are_those_of_one(tmp_path):
    images = torch.randn(4, 3, 64, 96, dtype=torch.float64)
    torch.save(images, tmp_path / 'images.pth')
    multiprocessing.spawn(half, (tmp_path,), nprocs=2)
    whole = [gradients_of(family, images, lambda backbone: backbone) for family in (ResT, RMT)]
    for rank in range(2):
        for found, wanted in zip(torch.load(tmp_path / f'{rank}.pth'), whole):
            assert found.keys() == wanted.keys()
            for name, gradient in wanted.items():
                # float32 rounds more than this away.
                torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-9, msg=name)


def config(**fields):
    return Config(dict(dict(launcher='pytorch'), **fields))


@pytest.mark.parametrize(
    'before, after',
    [
        (
            {},
            dict(
                type='MMDistributedDataParallel',
                device_ids=None,
                broadcast_buffers=False,
                find_unused_parameters=False,
            ),
        ),
        (
            dict(find_unused_parameters=True),
            dict(
                type='MMDistributedDataParallel',
                device_ids=None,
                broadcast_buffers=False,
                find_unused_parameters=True,
            ),
        ),
        (
            dict(model_wrapper_cfg=dict(static_graph=True)),
            dict(type='MMDistributedDataParallel', device_ids=None, static_graph=True),
        ),
        (
            dict(model_wrapper_cfg=dict(type='MMSeparateDistributedDataParallel')),
            dict(type='MMSeparateDistributedDataParallel', device_ids=None),
        ),
        (
            dict(model_wrapper_cfg=dict(type='MMFullyShardedDataParallel')),
            dict(type='MMFullyShardedDataParallel'),
        ),
    ],
)
def test_wrapper_on_the_cpu(before, after):
    cfg = config(**before)
    processes.use_cpu_wrapper(cfg)
    assert cfg.model_wrapper_cfg == after


def test_wrapper_of_strategies_on_the_cpu():
    cfg = config(runner_type='FlexibleRunner')
    processes.use_cpu_wrapper(cfg)
    assert cfg.strategy.type == 'DDPStrategy'
    assert cfg.strategy.model_wrapper.device_ids is None
    cfg = config(runner_type='FlexibleRunner', strategy=dict(type='DeepSpeedStrategy'))
    processes.use_cpu_wrapper(cfg)
    assert cfg.strategy == dict(type='DeepSpeedStrategy')


@pytest.mark.parametrize('launcher, program', [('slurm', 'srun'), ('mpi', 'mpirun')])
def test_launcher_that_did_not_start(monkeypatch, launcher, program):
    for variable, _ in processes.LAUNCHERS.values():
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(
        UsageError, match=f'--launcher {launcher} is for scripts started by {program}'
    ):
        processes.check_launcher(launcher)
    processes.check_launcher('none')


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setattr(processes, 'get_device', lambda: 'cuda')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    monkeypatch.setattr(processes, 'set_multi_processing', lambda **_: None)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '2')
    with pytest.raises(UsageError, match=r'2 processes were started, but there are 1 GPU'):
        processes.join_processes(config())


def test_messages_name_their_rank(monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    assert processes.rank_prefix() == ''
    for rank, prefix in (('0', ''), ('3', '[rank 3] ')):
        monkeypatch.setenv('RANK', rank)
        assert processes.rank_prefix() == prefix
