"""mmrest convert and publish: any checkpoint in, a clean file out."""

import re
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from mmrest import RMT, ResT
from mmrest.checkpoint import read_checkpoint, read_weights
from tests.runs import run_here


@pytest.fixture
def tool(capsys):
    """Return a function that runs a command and returns its output or error."""
    return lambda *args: run_here(*args) or capsys.readouterr().out


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Checkpoints of a classifier and of mmdet."""
    state = ResT('lite').state_dict()
    norms = ('norm1', 'norm2', 'norm3')
    classifier = {name: t for name, t in state.items() if not name.startswith(norms)}
    head = {'head.weight': torch.ones(10, 512)}
    others = {'neck.lateral_convs.0.conv.weight': torch.ones(3), 'bbox_head.bias': torch.ones(2)}
    contents = {
        'classifier': {'model': {**classifier, **head}, 'epoch': 3},
        'mmdet': {
            'meta': {'CLASSES': ('disc',)},
            'state_dict': {**{f'backbone.{n}': t for n, t in state.items()}, **others},
        },
    }
    folder = tmp_path_factory.mktemp('files')
    for name, content in contents.items():
        torch.save(content, folder / f'{name}.pth')
    return folder


def written(out, folder):
    path = Path(re.search(r'^(\S+?): \d+ tensors', out, re.M).group(1))
    assert path.parent == folder
    assert path.stem.endswith(sha256(path.read_bytes()).hexdigest()[:8])
    return path


@pytest.mark.parametrize('kind, suffix', [('classifier', '.pth'), ('mmdet', '.safetensors')])
def test_convert(files, kind, suffix, tmp_path, tool):
    folder = tmp_path / 'out'
    args = [files / f'{kind}.pth', folder / f'rest{suffix}']
    out = tool('convert_checkpoint', *args, '--backbone')
    assert 'tensors of rest_lite, from ' in out
    found = written(out, folder)
    assert list(folder.iterdir()) == [found]
    backbone = ResT('lite')
    assert read_weights(str(found)).tensors.keys() <= backbone.state_dict().keys()
    backbone.load_pretrained(str(found))
    if suffix == '.pth':
        assert read_checkpoint(str(found))['meta']['arch'] == 'rest_lite'


def test_a_full_detector(files, tmp_path, tool):
    """Its parts are listed, and all are kept without --backbone."""
    path = files / 'mmdet.pth'
    out = tool('convert_checkpoint', path, tmp_path / 'x.pth', '--list')
    assert 'mmdet.pth fits rest_lite' in out and re.search(r'backbone \| \d+ \| [\d,]+ \|', out)
    assert re.search(r'neck\W+1\W+3\b', out) and re.search(r'bbox_head\W+1\W+2\b', out)
    converted = str(written(out, tmp_path))
    assert read_checkpoint(converted)['meta']['dataset_meta'] == {'classes': ('disc',)}
    found = read_weights(converted).tensors
    assert found.keys() == read_weights(str(path)).tensors.keys()


def test_classifier_norm_with_a_name_of_rest(tmp_path, tool):
    state = RMT('t').state_dict()
    torch.save({**state, 'norm.weight': torch.ones(1024)}, tmp_path / 'x.pth')
    found = written(tool('convert_checkpoint', tmp_path / 'x.pth', tmp_path / 'y.pth'), tmp_path)
    assert read_weights(str(found)).tensors.keys() == state.keys()


def test_unknown_network(tmp_path, tool):
    torch.save({'a.weight': torch.ones(2)}, tmp_path / 'x.pth')
    assert 'no network of mmrest' in tool('convert_checkpoint', tmp_path / 'x.pth', '--list')


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_publish(suffix, tmp_path, tool):
    state = {'backbone.a': torch.ones(2), 'head.b': torch.zeros(3)}
    kept = {'cfg': 'model = 1', 'dataset_meta': {'classes': ('disc',)}}
    content = {
        'meta': {'time': 'now', **kept},
        'state_dict': state,
        'optimizer': {'state': {0: torch.ones(2)}},
        'message_hub': {},
        'ema_state_dict': {'module.backbone.a': torch.zeros(2)},
    }
    torch.save(content, tmp_path / 'epoch_1.pth')
    out = tool('publish_model', tmp_path / 'epoch_1.pth', tmp_path / f'model{suffix}')
    found = str(written(out, tmp_path))
    assert read_weights(found).tensors.keys() == state.keys()
    if suffix == '.pth':
        published = read_checkpoint(found)
        assert published.keys() == {'meta', 'state_dict'} and published['meta'] == kept
