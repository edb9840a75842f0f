"""tools/convert_checkpoint.py and publish_model.py: any file in, a clean one out."""

import re
import runpy
import sys
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from mmrest import RMT, ResT
from mmrest.checkpoint import read_checkpoint, read_weights
from tests.runs import ROOT


def tool(monkeypatch, capsys, program, *args):
    """What a program prints."""
    monkeypatch.setattr(sys, 'argv', [f'{program}.py', *map(str, args)])
    try:
        runpy.run_path(str(ROOT / 'tools' / f'{program}.py'), run_name='__main__')
    except SystemExit as end:
        return str(end.code)
    return capsys.readouterr().out


@pytest.fixture(scope='module')
def network():
    return ResT('lite')


def file_of(network, tmp_path, kind):
    state = network.state_dict()
    if kind == 'classification':
        state = {n: t for n, t in state.items() if not n.startswith(('norm1', 'norm2', 'norm3'))}
        content = {'model': {**state, 'head.weight': torch.ones(10, 512)}, 'epoch': 3}
    elif kind == 'mmdet':
        neck = {'neck.lateral_convs.0.conv.weight': torch.ones(3), 'bbox_head.bias': torch.ones(2)}
        content = {'state_dict': {**{f'backbone.{n}': t for n, t in state.items()}, **neck}}
    elif kind == 'detectron2':
        named = {f'backbone.bottom_up.{n}': t for n, t in state.items()}
        content = {'model': {**named, 'backbone.fpn_lateral2.weight': torch.ones(3)}}
    torch.save(content, tmp_path / f'{kind}.pth')
    return tmp_path / f'{kind}.pth'


def written(out, folder):
    path = Path(re.match(r'(\S+?): \d+ tensors', out).group(1))
    assert path.parent == folder
    assert path.stem.endswith(sha256(path.read_bytes()).hexdigest()[:8])
    return path


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('kind', ['classification', 'mmdet', 'detectron2'])
def test_convert(network, kind, suffix, tmp_path, monkeypatch, capsys):
    path = file_of(network, tmp_path, kind)
    folder = tmp_path / 'out'
    args = [path, folder / f'rest{suffix}']
    out = tool(monkeypatch, capsys, 'convert_checkpoint', *args, '--backbone')
    assert 'tensors of rest_lite, from ' in out
    found = written(out, folder)
    assert list(folder.iterdir()) == [found]
    state = read_weights(str(found)).tensors
    assert state.keys() <= network.state_dict().keys()
    assert not any(name.startswith('head') for name in state)
    ResT('lite').load_pretrained(str(found))
    if suffix == '.pth':
        assert read_checkpoint(str(found))['meta']['arch'] == 'rest_lite'


def test_convert_a_whole_detector(network, tmp_path, monkeypatch, capsys):
    path = file_of(network, tmp_path, 'mmdet')
    out = tool(monkeypatch, capsys, 'convert_checkpoint', path, tmp_path / 'x.pth')
    found = read_weights(str(written(out, tmp_path))).tensors
    assert found.keys() == read_weights(str(path)).tensors.keys()


def test_a_norm_of_the_classifier_that_is_called_like_one_of_rest(tmp_path, monkeypatch, capsys):
    network = RMT('t')
    torch.save({**network.state_dict(), 'norm.weight': torch.ones(1024)}, tmp_path / 'x.pth')
    out = tool(
        monkeypatch, capsys, 'convert_checkpoint', tmp_path / 'x.pth', tmp_path / 'y.pth', '--list'
    )
    found = written(out[out.index(f'{tmp_path}/y') :], tmp_path)
    assert read_weights(str(found)).tensors.keys() == network.state_dict().keys()
    assert 'rmt_t' in out and 'norm' in out


def test_list(network, tmp_path, monkeypatch, capsys):
    out = tool(
        monkeypatch,
        capsys,
        'convert_checkpoint',
        file_of(network, tmp_path, 'mmdet'),
        '--list',
    )
    assert re.search(r'backbone\W+\d+\W+[\d,]+\W+rest_lite', out)
    assert re.search(r'neck\W+1\W+3\b', out) and re.search(r'bbox_head\W+1\W+2\b', out)
    torch.save({'a.weight': torch.ones(2)}, tmp_path / 'other.pth')
    out = tool(monkeypatch, capsys, 'convert_checkpoint', tmp_path / 'other.pth', '--list')
    assert 'no network that' in out


def test_what_fits_no_network(tmp_path, monkeypatch, capsys):
    torch.save({'a.weight': torch.ones(2)}, tmp_path / 'x.pth')
    line = tool(monkeypatch, capsys, 'convert_checkpoint', tmp_path / 'x.pth', tmp_path / 'y.pth')
    assert 'x.pth fits none of the networks that mmrest knows by a name' in line
    assert [path.name for path in tmp_path.iterdir()] == ['x.pth']


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_publish(suffix, tmp_path, monkeypatch, capsys):
    state = {'backbone.a': torch.ones(2), 'head.b': torch.zeros(3)}
    content = {
        'meta': {'cfg': 'model = 1', 'time': 'now', 'dataset_meta': {'classes': ('disc',)}},
        'state_dict': state,
        'optimizer': {'state': {0: torch.ones(2)}},
        'message_hub': {},
        'ema_state_dict': {'module.backbone.a': torch.zeros(2)},
    }
    torch.save(content, tmp_path / 'epoch_1.pth')
    args = tmp_path / 'epoch_1.pth', tmp_path / f'model{suffix}'
    found = written(tool(monkeypatch, capsys, 'publish_model', *args), tmp_path)
    tensors = read_weights(str(found)).tensors
    assert tensors.keys() == state.keys()
    if suffix == '.pth':
        published = read_checkpoint(str(found))
        assert published.keys() == {'meta', 'state_dict'}
        assert published['meta'] == {
            'cfg': 'model = 1',
            'dataset_meta': {'classes': ('disc',)},
        }
