"""Class lists against heads and annotations."""

import json

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmrest.engine.checks import check_classes
from mmrest.engine.errors import UsageError


def config(tmp_path, classes, bbox_classes, **dataset):
    categories = [{'id': 1, 'name': 'disc'}, {'id': 2, 'name': 'square'}]
    (tmp_path / 'a.json').write_text(json.dumps({'categories': categories}))
    metainfo = {} if classes is None else dict(metainfo=dict(classes=classes))
    dataset = dict(data_root=str(tmp_path), ann_file='a.json', **metainfo, **dataset)
    model = dict(rpn_head=dict(num_classes=1), bbox_head=dict(num_classes=bbox_classes))
    return Config(dict(train_dataloader=dict(dataset=dataset), model=model))


def test_a_file_may_list_the_classes(tmp_path):
    (tmp_path / 'classes.txt').write_text('disc\nsquare\n')
    check_classes(config(tmp_path, str(tmp_path / 'classes.txt'), 2), ('train',))


def test_heads_must_agree(tmp_path):
    check_classes(config(tmp_path, ('disc', 'square'), 2), ('train',))  # whatever the RPN says
    with pytest.raises(UsageError, match=r'set model\.bbox_head\.num_classes=1'):
        check_classes(config(tmp_path, ('disc',), 2), ('train',))


def test_classes_that_come_with_the_type(tmp_path):
    with DefaultScope.overwrite_default_scope('mmdet'):
        cfg = config(tmp_path, None, 80, type='CocoDataset')
        with pytest.raises(UsageError, match=r"none of those of its type \('person', .* 'disc'"):
            check_classes(cfg, ('train',))
        cfg.train_dataloader.dataset.ann_file = 'absent.json'  # other checks tell of that
        check_classes(cfg, ('train',))
        cfg.model.bbox_head.num_classes = 2
        with pytest.raises(UsageError, match=r'num_classes is 2, but the class list of the type'):
            check_classes(cfg, ('train',))
        cfg.train_dataloader.dataset.type = 'CocoPanopticDataset'  # has things and stuff
        check_classes(cfg, ('train',))


def test_segmentation():
    dataset = dict(type='ADE20KDataset', data_root='data')
    model = dict(decode_head=dict(num_classes=150), auxiliary_head=[dict(num_classes=19)])
    cfg = Config(dict(train_dataloader=dict(dataset=dataset), model=model))
    with DefaultScope.overwrite_default_scope('mmseg'):
        with pytest.raises(UsageError, match=r'set model\.auxiliary_head\.0\.num_classes=150'):
            check_classes(cfg, ('train',))
        cfg.model.auxiliary_head[0].num_classes = 150
        (fact,) = check_classes(cfg, ('train',))
    assert fact.found == '150: wall, building, sky, ...'
