"""Annotation files, read once, as mmdet's data set reads them."""

import json

import mmdet.datasets  # noqa: F401, registers CocoDataset
import pytest
from mmdet.registry import DATASETS
from mmengine.registry import DefaultScope

from mmrest.engine.checks.annotations import Annotations
from mmrest.engine.errors import UsageError
from tests.drawn import CLASSES, draw_coco


@pytest.fixture
def root(tmp_path):
    root = draw_coco(tmp_path)
    path = root / 'annotations' / 'instances_train2017.json'
    content = json.loads(path.read_text())
    content['images'][0]['height'] = 20
    content['annotations'] = [a for a in content['annotations'] if a['image_id'] != 2]
    for annotation in content['annotations']:
        if annotation['image_id'] == 3:
            annotation['category_id'] = 1
    path.write_text(json.dumps(content))
    return root


def dataset(root, **fields):
    return dict(
        type='CocoDataset',
        data_root=str(root),
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'),
        metainfo=dict(classes=CLASSES),
        **fields,
    )


def built(part):
    with DefaultScope.overwrite_default_scope('mmdet'):
        return DATASETS.build(part)


def listing(part, classes=CLASSES):
    with DefaultScope.overwrite_default_scope('mmdet'):
        return Annotations().listing('train', part, classes)


@pytest.mark.parametrize(
    'rule, test_mode, kept',
    [
        (None, False, 4),
        (dict(filter_empty_gt=True), False, 3),
        (dict(filter_empty_gt=True, min_size=32), False, 2),
        (dict(min_size=32), False, 3),
        (dict(filter_empty_gt=True, min_size=32), True, 4),
    ],
)
def test_as_many_as_the_data_set_keeps(root, rule, test_mode, kept):
    part = dataset(root, filter_cfg=rule, test_mode=test_mode)
    assert listing(part).used == len(built(part)) == kept


def test_images_without_the_classes(root):
    part = dataset(root, filter_cfg=dict(filter_empty_gt=True))
    part['metainfo'] = dict(classes=['car'])
    assert listing(part, ['car']).used == len(built(part)) == 2


@pytest.mark.parametrize(
    'key, entry, lacking',
    [
        ('annotations', 'area', 'area of one of its annotations'),
        ('images', 'width', 'width of one of its images'),
        ('categories', 'name', 'name of one of its categories'),
    ],
)
def test_what_is_read_must_be_there(root, key, entry, lacking):
    path = root / 'annotations' / 'instances_train2017.json'
    content = json.loads(path.read_text())
    del content[key][-1][entry]
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=rf'is no COCO JSON \(KeyError: {lacking}\)'):
        listing(dataset(root))


def test_a_file_is_read_once(root, monkeypatch):
    reads = []
    loads = json.loads
    monkeypatch.setattr(json, 'loads', lambda text: reads.append(text) or loads(text))
    annotations = Annotations()
    with DefaultScope.overwrite_default_scope('mmdet'):
        for _ in range(2):
            assert annotations.listing('train', dataset(root), CLASSES).images
    assert len(reads) == 1


def skimmed(root, monkeypatch):
    """What a run sees of a large file, and what a dry run sees."""
    monkeypatch.setattr('mmrest.engine.checks.annotations.LARGE', 1)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return [Annotations(whole).listing('train', dataset(root), None) for whole in (0, 1)]


def test_a_large_file_is_skimmed(root, monkeypatch):
    path = root / 'annotations' / 'instances_train2017.json'
    before, whole = skimmed(root, monkeypatch)
    assert before == whole
    text = path.read_text()
    # Annotations are not looked at ...
    path.write_text(text.replace('"area"', '"aera"'))
    with pytest.raises(UsageError, match='area of one of its annotations'):
        skimmed(root, monkeypatch)
    with DefaultScope.overwrite_default_scope('mmdet'):
        assert Annotations(whole=False).listing('train', dataset(root), None) == before
    # ... and neither keys of something else nor a file that is cut off mislead.
    path.write_text('{"info": {"images": [1], "categories": [{}]}, ' + text[1:])
    assert skimmed(root, monkeypatch) == [before, whole]
    path.write_text(text[:-40])
    with pytest.raises(UsageError, match=r'is no COCO JSON \(JSONDecodeError'):
        skimmed(root, monkeypatch)


def test_other_formats_are_left_to_their_data_sets(root):
    for kind in ('CocoPanopticDataset', 'LVISV1Dataset'):
        assert listing(dict(dataset(root), type=kind)) is None
    assert listing(dataset(root, backend_args=dict(backend='petrel'))) is None
