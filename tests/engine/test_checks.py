"""Class lists against heads and annotations."""

import json

import pytest
from mmengine.config import Config

from mmrest.engine.checks import check_classes
from mmrest.engine.errors import UsageError


def config(tmp_path, classes, bbox_classes):
    annotations = {'categories': [{'name': 'disc'}, {'name': 'square'}]}
    (tmp_path / 'a.json').write_text(json.dumps(annotations))
    dataset = dict(data_root=str(tmp_path), ann_file='a.json', metainfo=dict(classes=classes))
    model = dict(rpn_head=dict(num_classes=1), bbox_head=dict(num_classes=bbox_classes))
    return Config(dict(train_dataloader=dict(dataset=dataset), model=model))


def test_a_file_may_list_the_classes(tmp_path):
    (tmp_path / 'classes.txt').write_text('disc\nsquare\n')
    check_classes(config(tmp_path, str(tmp_path / 'classes.txt'), 2), ('train',))


def test_heads_must_agree(tmp_path):
    check_classes(config(tmp_path, ('disc', 'square'), 2), ('train',))  # whatever the RPN says
    with pytest.raises(UsageError, match=r'set model\.bbox_head\.num_classes=1'):
        check_classes(config(tmp_path, ('disc',), 2), ('train',))
