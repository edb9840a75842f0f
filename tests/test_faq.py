"""Messages in the troubleshooting tables occur; of libraries, only some are tried."""

import re

import mmdet.registry
import mmdet.utils
import pytest
import torch
from mmcv import ops

from mmrest import RMT
from mmrest.checkpoint import match
from mmrest.cli import train
from mmrest.engine.config import load_config
from mmrest.preflight import rehearse
from tests.runs import ROOT


def rehearsing(**dataset):
    """Rehearse a shipped config with other classes or data."""

    def run(coco_root, **_):
        options = {'train_dataloader.dataset': {'data_root': str(coco_root), **dataset}}
        cfg = load_config('maskrcnn_rmt_s_3x', options)
        cfg.work_dir = '.'
        rehearse(cfg, ('train',))

    return run


def building(**cfg):
    return lambda **_: mmdet.registry.MODELS.build(cfg)


def loading(arch, content):
    def load(tmp_path, **_):
        torch.save(content(), tmp_path / 'x.pth')
        RMT(arch).load_pretrained(str(tmp_path / 'x.pth'))

    return load


def without_gpu(monkeypatch, **_):
    monkeypatch.setattr(train, 'get_device', lambda: 'cpu')
    train.use_amp(load_config('maskrcnn_rmt_s_3x'), 'float16')


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
    'not found; check --data-root DIR': rehearsing(data_root='absent'),
    'must be a list of names': rehearsing(metainfo=dict(classes='car')),
    'names must match exactly': rehearsing(metainfo=dict(classes=['lorry'])),
    'num_classes is 80, but': rehearsing(metainfo=dict(classes=['car'])),
    '--amp requires a GPU': without_gpu,
}


def test_the_page_has_them():
    page = (ROOT / 'docs' / 'troubleshooting.md').read_text()
    rows = re.findall(r'^\| `(.+?)` \| ', page, re.M)
    assert set(TROUBLES) <= set(rows)


@pytest.mark.parametrize('text', TROUBLES)
def test_troubles(text, tmp_path, monkeypatch, coco_root):
    mmdet.utils.register_all_modules()
    with pytest.raises(Exception, match=re.escape(text)):
        TROUBLES[text](tmp_path=tmp_path, monkeypatch=monkeypatch, coco_root=coco_root)
