"""Configs of runs: data root, norm layers, and overrides."""

import os

import pytest
import torch
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmseg.models import EncoderDecoder

from mmrest.engine.compat import renamed
from mmrest.engine.config import (
    is_classifier,
    is_segmentor,
    load_config,
    make_resumable,
    package_of,
    use_tta,
    without_sync_bn,
)
from mmrest.errors import UsageError

CONFIG = """
data_root = 'data/coco/'
pipeline = [dict(type='Load', scale=(4, 4)), dict(type='Pack')]
data = dict(data_root=data_root, ann_file='a.json', data_prefix=dict(img='images/'))
train_dataloader = dict(dataset=dict(type='RepeatDataset', dataset=data))
val_dataloader = dict(dataset=dict(datasets=[data, data]))
val_evaluator = [dict(ann_file='data/coco/a.json'), dict(ann_file='elsewhere/b.json')]
test_dataloader = dict(dataset=dict(datasets=(dict(ann_file='data/coco/c.json'),)))
model = dict(
    backbone=dict(norm_cfg=dict(type='SyncBN', requires_grad=True)),
    head=[dict(norm_cfg=dict(type='MMSyncBN')), dict(norm_cfg=dict(type='GN'))],
)
work_dir = 'data/coco/runs'
load_from = 'data/coco/x.pth'
other = dict(data_root='other')
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(CONFIG)
    return path


@pytest.mark.parametrize('root', ['data/coco/', 'data/coco'])
@pytest.mark.parametrize('new', ['/elsewhere', '/elsewhere/', 'relative', '~/mine'])
def test_data_root_replaces_path_prefixes(path, root, new):
    """Only those of data."""
    path.write_text(CONFIG.replace("data_root = 'data/coco/'", f'data_root = {root!r}'))
    cfg = load_config(str(path), data_root=new)
    new = os.path.expanduser(new).rstrip('/')
    for dataset in (cfg.train_dataloader.dataset.dataset, *cfg.val_dataloader.dataset.datasets):
        assert dataset.data_root.rstrip('/') == new
        assert (dataset.ann_file, dataset.data_prefix.img) == ('a.json', 'images/')
    files = [evaluator.ann_file for evaluator in cfg.val_evaluator]
    assert files == [f'{new}/a.json', 'elsewhere/b.json']
    assert cfg.test_dataloader.dataset.datasets[0].ann_file == f'{new}/c.json'
    assert cfg.data_root.rstrip('/') == new
    kept = (cfg.work_dir, cfg.load_from, cfg.other.data_root)
    assert kept == ('data/coco/runs', 'data/coco/x.pth', 'other')


def test_data_root_of_the_datasets(path):
    """That of a base config stays at the top."""
    text = CONFIG.replace('data_root=data_root', "data_root='data/mine/'")
    path.write_text(text)
    cfg = load_config(str(path), data_root='/elsewhere')
    assert cfg.val_evaluator[0].ann_file == '/elsewhere/a.json'  # some paths are below the top
    path.write_text(text.replace("'data/coco/", "'data/base/", 1).replace('data/coco/', 'x/'))
    cfg = load_config(str(path), data_root='/elsewhere')
    assert cfg.train_dataloader.dataset.dataset.data_root.rstrip('/') == '/elsewhere'
    assert load_config(str(path), {'data_root': '/elsewhere'}).pretty_text == cfg.pretty_text
    options = {'train_dataloader.dataset.dataset.data_root': 'mine'}  # comes last
    cfg = load_config(str(path), options, data_root='/elsewhere')
    assert cfg.train_dataloader.dataset.dataset.data_root == 'mine'


@pytest.mark.parametrize('loop, hook, resumable', [
    *((dict(type=f'{scope}EpochBasedTrainLoop'), dict(type=f'{scope}CheckpointHook'), 'Epoch')
      for scope in ('', 'mmengine.', 'mmdet.')),
    (dict(max_epochs=2), None, 'Epoch'),
    (dict(max_iters=2, val_interval=1), None, 'Iter'),
    (dict(by_epoch=False, max_iters=2), None, 'Iter'),
])  # fmt: skip
def test_loops_and_checkpoint_hook(loop, hook, resumable):
    """Of any scope, and by default."""
    cfg = Config(dict(train_cfg=loop, default_hooks=hook and dict(checkpoint=hook)))
    make_resumable(cfg)
    assert cfg.train_cfg.type == f'Resumable{resumable}Loop'
    assert cfg.default_hooks.checkpoint.type == 'AtomicCheckpointHook'


def test_lists_for_tuples():
    """A list from a command line, such as 64,96, becomes a tuple where the config has one."""
    key = 'test_dataloader.dataset.pipeline.1.scale'
    cfg = load_config('maskrcnn_rmt_t_1x', {key: [64, 96], 'model.neck.in_channels': [1, 2]})
    assert cfg.test_dataloader.dataset.pipeline[1].scale == (64, 96)
    assert cfg.model.neck.in_channels == [1, 2]


def test_lists_for_strings(path):
    """A comma in a path is a mistake, but other options take a string or a list."""
    for metric in ('mIoU', 'coco/bbox_mAP'):
        path.write_text(f'{CONFIG}\nhook = dict(save_best={metric!r})')
        cfg = load_config(str(path), {'hook.save_best': [metric, 'aAcc']})
        assert cfg.hook.save_best == [metric, 'aAcc']
    with pytest.raises(UsageError, match='put a string with commas in quotes'):
        load_config(str(path), {'load_from': ['x', 'y.pth']})


def test_augmented_images_are_read_as_others():
    load = dict(type='LoadImageFromFile', color_type='unchanged')
    options = {'test_dataloader.dataset.pipeline.0': load}
    cfg = load_config('semfpn_rmt_t_80k', options)
    use_tta(cfg)
    assert [step.type for step in cfg.test_dataloader.dataset.pipeline][-1] == 'TestTimeAug'
    assert cfg.test_dataloader.dataset.pipeline[0].color_type == 'unchanged'


@pytest.mark.parametrize('loaders, fault', [
    ([], 'but there is none'),
    ([dict(data_root='one/'), dict(data_root='two')], 'there are several: one, two'),
])  # fmt: skip
def test_ambiguous_data_root(path, loaders, fault):
    path.write_text(f'train_dataloader = {loaders}\nmodel = dict()')
    with pytest.raises(UsageError, match=fault):
        load_config(str(path), data_root='x')


LAZY = """
from mmcv.ops import RoIAlign, nms
from mmdet.datasets import CocoDataset
from mmdet.models import FasterRCNN, DetTTAModel

default_scope = None
data_root = 'a/'
model = dict(
    type=FasterRCNN, roi_layer=dict(type=RoIAlign), test_cfg=dict(rpn=dict(nms=dict(type=nms)))
)
test_dataloader = dict(
    dataset=dict(type=CocoDataset, ann_file='a/x.json', data_root='a/', pipeline=[])
)
tta_model = dict(type=DetTTAModel)
tta_pipeline = []
"""


def test_configs_in_the_style_of_python(tmp_path):
    """Their types are classes, and remain so in the file that a run saves."""
    (tmp_path / 'lazy.py').write_text(LAZY)
    cfg = load_config(str(tmp_path / 'lazy.py'), data_root='b')
    use_tta(cfg)
    assert renamed(cfg, 'b.py').test_dataloader.dataset.type is CocoDataset
    cfg.dump(str(tmp_path / 'saved.py'))
    for found in (cfg, load_config(str(tmp_path / 'saved.py'))):
        assert found.test_dataloader.dataset.ann_file == 'b/x.json'
        detector = found.model.module
        assert package_of(Config(dict(model=detector))) == package_of(found) == 'mmdet'
        assert detector.roi_layer.type == 'RoIAlign'
        assert detector.test_cfg.rpn.nms.type == 'nms'


class Own(EncoderDecoder):
    """A segmentor of a user."""


@pytest.mark.parametrize('fields, package', [
    (dict(default_scope='mmseg', model=dict(type='X')), 'mmseg'),
    (dict(default_scope=None, model=dict(type='mmseg.EncoderDecoder')), 'mmseg'),
    (dict(model=dict(type='mmpretrain.models.ImageClassifier')), 'mmpretrain'),
    (dict(model=dict(type=Own)), 'mmseg'),
    (dict(model=dict(type='RMT')), ''),
])  # fmt: skip
def test_package(fields, package):
    """Configs in the style of Python, or dumped from it, have no default scope."""
    cfg = Config(fields)
    assert package_of(cfg) == package
    assert (is_classifier(cfg), is_segmentor(cfg)) == (package == 'mmpretrain', package == 'mmseg')


def test_scope_of_a_collate_function(path):
    """That of a base config, which mmengine would pass to the function."""
    path.write_text(
        'model = {}\ntrain_dataloader = '
        "dict(collate_fn=dict(type='default_collate', _scope_='mmpretrain'))"
    )
    assert load_config(str(path)).train_dataloader.collate_fn == dict(type='default_collate')


def test_without_sync_bn(path):
    cfg = load_config(str(path))
    assert without_sync_bn(cfg) == 2
    assert cfg.model.backbone.norm_cfg == dict(type='BN', requires_grad=True)
    assert [head.norm_cfg.type for head in cfg.model.head] == ['BN', 'GN']
    assert without_sync_bn(cfg) == 0
    by_class = Config(dict(model=dict(norm_cfg=dict(type=torch.nn.SyncBatchNorm))))
    assert without_sync_bn(by_class) == 1 and by_class.model.norm_cfg.type == 'BN'
