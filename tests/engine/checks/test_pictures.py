"""Images and label maps that do not load, or that hold what no head predicts."""

import cv2
import numpy as np
import pytest

from mmrest.engine.checks import check
from mmrest.engine.checks.pictures import spread
from mmrest.engine.config import load_config
from mmrest.engine.errors import UsageError
from tests.drawn import draw_ade, draw_coco
from tests.tools.runs import DETECTOR, SEGMENTOR


def checked(tmp_path, text, root, options=None):
    (tmp_path / 'tiny.py').write_text(text)
    cfg = load_config(str(tmp_path / 'tiny.py'), options, str(root))
    cfg.work_dir = str(tmp_path / 'work')
    return dict(check(cfg, ('train', 'val')))


@pytest.fixture
def coco(tmp_path):
    (tmp_path / 'data').mkdir()
    return draw_coco(tmp_path / 'data')


@pytest.fixture
def ade(tmp_path):
    (tmp_path / 'data').mkdir()
    return draw_ade(tmp_path / 'data')


def test_a_sample_is_spread():
    assert spread([], 3) == [] and spread([1, 2], 3) == [1, 2]
    assert spread(list(range(33)), 24)[:4] == [0, 1, 2, 4] and len(spread(range(118287), 24)) == 24


@pytest.mark.parametrize('content', [b'', b'no picture', None])
def test_an_image_that_is_damaged(tmp_path, coco, content):
    path = coco / 'val2017' / '000000000003.jpg'
    path.write_bytes(path.read_bytes()[:40] if content is None else content)
    with pytest.raises(UsageError, match=r'image \S+000000000003\.jpg \(val_dataloader.dataset\)'):
        checked(tmp_path, DETECTOR, coco)


def test_a_label_map_that_is_damaged(tmp_path, ade):
    (ade / 'annotations' / 'training' / '2.png').write_bytes(b'no map')
    with pytest.raises(UsageError, match=r'label map \S+training/2\.png .* cannot be loaded'):
        checked(tmp_path, SEGMENTOR, ade)
    (ade / 'annotations' / 'training' / '2.png').unlink()
    with pytest.raises(UsageError, match=r'training/2\.png does not exist; check train_dataloade'):
        checked(tmp_path, SEGMENTOR, ade)


def relabel(ade, value):
    path = ade / 'annotations' / 'validation' / '1.png'
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    labels[0, 0] = value
    cv2.imwrite(str(path), labels)


def test_labels_against_the_heads(tmp_path, ade):
    relabel(ade, 150)  # the last class, and 0 is no class
    found = checked(tmp_path, SEGMENTOR, ade)
    assert '4 used of 4; 4 decoded, with 3 cl' in found['images of train_dataloader.dataset']
    assert 'with 4 classes' in found['images of val_dataloader.dataset']
    relabel(ade, 151)
    with pytest.raises(UsageError, match=r'1\.png .* holds class 150 where model.decode_head.num'):
        checked(tmp_path, SEGMENTOR, ade)


def test_a_zero_label_that_is_a_class(tmp_path, ade):
    """The same maps with 0 as a class have one more."""
    relabel(ade, 150)
    options = {f'{p}_dataloader.dataset.reduce_zero_label': False for p in ('train', 'val')}
    options['train_dataloader.dataset.pipeline.1.reduce_zero_label'] = False
    options['val_dataloader.dataset.pipeline'] = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations'),
    ]
    with pytest.raises(UsageError, match=r'holds class 150 where .*; check val_dataloader'):
        checked(tmp_path, SEGMENTOR, ade, options)


def test_an_empty_folder(tmp_path, ade):
    for path in (ade / 'images' / 'training').iterdir():
        path.unlink()
    with pytest.raises(UsageError, match=r'train_dataloader.dataset finds no image in its folder'):
        checked(tmp_path, SEGMENTOR, ade)


def test_random_numbers_are_left_alone(tmp_path, coco):
    before = np.random.get_state()[1].copy()
    checked(tmp_path, DETECTOR, coco)
    assert (np.random.get_state()[1] == before).all()
