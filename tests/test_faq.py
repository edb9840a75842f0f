"""Every message in the troubleshooting table occurs."""

import importlib
import importlib.abc
import os
import re
import signal
import sys

import mmdet.registry
import mmdet.utils
import pytest
import torch
from mmcv import ops
from mmengine.logging import HistoryBuffer
from torch.utils.data import DataLoader

from mmrest import RMT
from mmrest.checkpoint import match
from mmrest.cli import train
from mmrest.engine.config import load_config
from mmrest.preflight import rehearse
from tests.runs import ROOT


def real_config(classes=None, root='data/coco'):
    """A shipped config, with other classes."""
    dataset = dict(
        data_root=str(root), **(dict(metainfo=dict(classes=classes)) if classes else {})
    )
    cfg = load_config('maskrcnn_rmt_s_3x', {'train_dataloader.dataset': dataset})
    cfg.work_dir = '.'
    return cfg


def rehearsing(classes):
    return lambda coco_root, **_: rehearse(real_config(classes, coco_root), ('train',))


def building(**cfg):
    return lambda **_: mmdet.registry.MODELS.build(cfg)


def loading(arch, content):
    def load(tmp_path, **_):
        torch.save(content(), tmp_path / 'x.pth')
        RMT(arch).load_pretrained(str(tmp_path / 'x.pth'))

    return load


class Fatal(list):
    """Dataset whose worker is killed."""

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


IMAGE = torch.zeros(1, 3, 1, 1)
# Text in the tables of the page -> what brings it about.
TROUBLES = {
    'needs compiled mmcv, which is not installed': lambda **_: ops.nms_match(torch.rand(4, 5), 0),
    'is not in the mmdet::model registry': building(type='Absent'),
    "got an unexpected keyword argument 'depth'": building(type='RMT', arch='t', depth=50),
    "got an unexpected keyword argument 'pretrained'": building(type='ResT', pretrained='x.pth'),
    'Expected more than 1 value per channel when training': lambda **_: RMT('t')(IMAGE),
    'does not match the model: 0 of': lambda **_: match('x', {'module.x': IMAGE}, {'x': IMAGE}),
    'it looks like': loading('s', lambda: RMT('t').state_dict()),
    'it contains a pickled': loading('t', lambda: {'model': print}),
    'must be a list of names': rehearsing('car'),
    'names must match exactly': rehearsing(['lorry']),
    'num_classes is 80, but': rehearsing(['car']),
    'DataLoader worker (pid': lambda **_: next(iter(DataLoader(Fatal([1]), num_workers=1))),
}


def trouble(text):
    def register(function):
        TROUBLES[text] = function
        return function

    return register


@trouble("No module named 'mmcv._ext'")
def _(**_):
    from mmcv.utils import ext_loader

    ext_loader.load_ext('_ext', ['nms']).nms  # noqa: B018, the name that the test takes away


@trouble("No module named 'ftfy'")
def _(**_):
    import mmseg.utils.tokenizer as tokenizer

    importlib.reload(tokenizer)


@trouble('is used but incompatible. Please install mmcv>=2.0.0rc4, <2.2.0.')
def _(monkeypatch, **_):
    monkeypatch.setattr('mmcv.__version__', '2.2.0')
    importlib.reload(mmdet)


@trouble('to have 256 channels, but got 64 channels instead')
def _(**_):
    neck = dict(type='FPN', in_channels=[256], out_channels=8, num_outs=1)
    mmdet.registry.MODELS.build(neck)([torch.zeros(1, 64, 4, 4)])


@trouble('Weights only load failed')
def _(tmp_path, **_):
    torch.save({'message_hub': HistoryBuffer()}, tmp_path / 'epoch_1.pth')
    torch.load(tmp_path / 'epoch_1.pth', weights_only=True)


@trouble('not found; check --data-root DIR')
def _(monkeypatch, tmp_path, **_):
    monkeypatch.chdir(tmp_path)
    rehearse(real_config(), ('train',))


@trouble('need at least one array to concatenate')
def _(coco_root, **_):
    mmdet.registry.DATASETS.build(real_config(['lorry'], coco_root).train_dataloader.dataset)


@trouble('--amp requires a GPU')
def _(monkeypatch, **_):
    monkeypatch.setattr(train, 'get_device', lambda: 'cpu')
    train.use_amp(real_config(), 'float16')


@trouble('CUDA out of memory')
def _(**_):
    if not torch.cuda.is_available():
        pytest.skip('needs a GPU')
    torch.empty(2**50, device='cuda')


def test_every_trouble_has_a_test():
    page = (ROOT / 'docs' / 'troubleshooting.md').read_text()
    rows = re.findall(r'^\| `(.+?)` \| ', page, re.M)
    assert sorted(rows) == sorted(TROUBLES)


@pytest.mark.parametrize('text', TROUBLES)
def test_troubles(text, tmp_path, monkeypatch, coco_root):
    mmdet.utils.register_all_modules()
    if text.startswith('No module named'):
        # As where the package lacks it; the rest of Python stays as it is.
        monkeypatch.setattr(sys, 'meta_path', [Without(text.split("'")[1]), *sys.meta_path])
        monkeypatch.delitem(sys.modules, text.split("'")[1], raising=False)
    with pytest.raises(Exception, match=re.escape(text)):
        TROUBLES[text](tmp_path=tmp_path, monkeypatch=monkeypatch, coco_root=coco_root)


class Without(importlib.abc.MetaPathFinder):
    """Finder that hides a module."""

    def __init__(self, name):
        self.name = name

    def find_spec(self, name, path=None, target=None):
        if name == self.name:
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
