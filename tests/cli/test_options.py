"""Options of the commands: parsing, and effects on a config."""

import errno
import os
from pathlib import Path

import pytest
from mmengine.config import Config

from mmrest.cli import command, train
from mmrest.errors import UsageError
from tests.runs import ROOT


def test_values():
    """Dicts in Python syntax, lists with and without quotes, and unchanged paths."""
    parser = command.Parser()
    command.add_config_arguments(parser)
    given = ["a=[{'x': 1}]", 'b={}', 'c=[1,x]', 'd=1e-3', 'e=true', 'f=(1,(2,x y))']
    given += ['g=my runs/out', 'h=a, b/c', 'i=a,2', 'j="a,b"', "k={'a': (1, 2)}", 'l=']
    given += ['m=a_{}', 'n=1,2', 'o=(1,2),(3,4)']
    assert parser.parse_args(['--cfg-options', *given]).cfg_options == dict(
        a=[dict(x=1)], b={}, c=[1, 'x'], d=1e-3, e=True, f=(1, (2, 'x y')),
        g='my runs/out', h='a, b/c', i=['a', 2], j='a,b', k=dict(a=(1, 2)), l='', m='a_{}',
        n=[1, 2], o=[(1, 2), (3, 4)],
    )  # fmt: skip


@pytest.mark.parametrize('kind', [command.folder, command.written_file('.png')])
def test_names_with_a_tilde(kind, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    assert kind('~/x.png') == tmp_path / 'x.png'
    assert kind('~$/x.png') == Path('~$', 'x.png')


def test_unknown_backend(monkeypatch):
    monkeypatch.setenv('MMREST_BACKEND', 'nonsense')
    parser = command.Parser()
    parser.add_argument('config')
    command.add_run_arguments(parser)
    args = parser.parse_args([str(ROOT / 'configs' / 'own_coco.py')])
    with pytest.raises(UsageError, match=r"MMREST_BACKEND: unknown backend 'nonsense'; choose"):
        command.run_config(args)


@pytest.mark.parametrize('program, number, line', [
    ('train', errno.ENOSPC, r'the disk is full at out/a\.pth; .* --resume.*'),
    ('infer', errno.ENOSPC, r'the disk is full at out/a\.pth; free some space'),
    ('infer', errno.EACCES, r'out/a\.pth: Permission denied; .*'),
])  # fmt: skip
def test_an_output_that_cannot_be_written(monkeypatch, program, number, line):
    def main():
        raise OSError(number, os.strerror(number), 'out/a.pth')

    monkeypatch.setattr('sys.argv', [f'{program}.py'])
    with pytest.raises(SystemExit, match=rf'^{program}\.py: error: {line}$'):
        command.run(main)


@pytest.mark.parametrize('launcher, rank', [('mpi', '3'), ('none', '1')])
def test_rank_on_this_machine(monkeypatch, launcher, rank):
    """mpirun has a variable of its own."""
    args = ['tiny.py', '--launcher', launcher, '--local_rank', '1']
    parser = command.Parser()
    parser.add_argument('config')
    command.add_run_arguments(parser)
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    for name in ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK'):
        monkeypatch.setenv(name, '3')
    with pytest.raises(UsageError, match=r'config tiny\.py not found'):
        command.run_config(parser.parse_args(args))
    assert os.environ.pop('LOCAL_RANK') == rank


def test_auto_scale_lr():
    cfg = Config(dict(auto_scale_lr=dict(base_batch_size=16, enable=False)))
    train.use_auto_scale_lr(cfg)
    assert cfg.auto_scale_lr == dict(base_batch_size=16, enable=True)
    cfg.optim_wrapper = dict(accumulative_counts=4)
    train.use_auto_scale_lr(cfg)
    assert cfg.auto_scale_lr.base_batch_size == 4


PRETRAINED = dict(type='Pretrained', checkpoint='x.pth')


@pytest.mark.parametrize('before, after', [
    (None, PRETRAINED),
    (dict(prefix='backbone'), dict(PRETRAINED, prefix='backbone')),
    (dict(type='Kaiming', layer='Conv2d'), PRETRAINED),
])  # fmt: skip
def test_pretrained(before, after):
    """It also replaces the weights of a base of mmseg."""
    backbone = dict(type='RMT', init_cfg=before)
    cfg = Config(dict(model=dict(pretrained='open-mmlab://resnet50', backbone=backbone)))
    train.use_pretrained(cfg, 'x.pth')
    assert cfg.model.backbone.init_cfg == after and cfg.model.pretrained is None


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_amp(monkeypatch, dtype):
    monkeypatch.setattr(train, 'get_device', lambda: 'cuda')
    cfg = Config(dict(optim_wrapper=dict(type='OptimWrapper', clip_grad=dict(max_norm=0.01))))
    train.use_amp(cfg, dtype)
    wanted = dict(type='AmpOptimWrapper', dtype=dtype, loss_scale='dynamic')
    assert cfg.optim_wrapper == dict(wanted, clip_grad=dict(max_norm=0.01))


@pytest.mark.parametrize('each, world, accumulated, enabled, factors', [
    (2, 1, 1, False, '2 (2 x 1 process)'),
    (2, 8, 1, False, None),
    (2, 4, 2, False, None),
    ([2, 1], 1, 1, False, '3 (3 x 1 process)'),  # of two datasets
    (4, 8, 2, False, '64 (4 x 8 processes x 2 accumulated)'),
    (2, 1, 1, True, None),
])  # fmt: skip
def test_batch_size(monkeypatch, each, world, accumulated, enabled, factors):
    monkeypatch.setattr(train, 'get_world_size', lambda: world)
    cfg = Config(dict(train_dataloader=dict(batch_size=each)))
    cfg.optim_wrapper = dict(accumulative_counts=accumulated)
    cfg.auto_scale_lr = dict(base_batch_size=16, enable=enabled)
    warning = train.batch_size_warning(cfg)
    assert (warning is None) == (factors is None)
    assert factors is None or (factors in warning and '--auto-scale-lr' in warning)
