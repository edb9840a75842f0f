"""The drawn data set: the same bytes for a seed, and annotations that say what is drawn."""

import hashlib

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from mmrest.datasets.shapes import CLASSES, draw_scene, write_classes, write_shapes
from mmrest.engine.errors import UsageError


def digest(root):
    files = sorted(path for path in root.rglob('*') if path.is_file())
    contents = [
        (str(p.relative_to(root)), hashlib.sha256(p.read_bytes()).hexdigest()) for p in files
    ]
    return hashlib.sha256(repr(contents).encode()).hexdigest()


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('shapes')
    write_shapes(root, {'train': 12, 'val': 5}, seed=3)
    return root


def test_the_same_seed_gives_the_same_bytes(root, tmp_path):
    write_shapes(tmp_path / 'same', {'train': 12, 'val': 5}, seed=3)
    write_shapes(tmp_path / 'other', {'train': 12, 'val': 5}, seed=4)
    assert digest(tmp_path / 'same') == digest(root) != digest(tmp_path / 'other')


def test_splits_share_no_image(root):
    train, val = (
        {hashlib.sha256(p.read_bytes()).hexdigest() for p in (root / 'coco' / split).iterdir()}
        for split in ('train2017', 'val2017')
    )
    assert len(train) == 12 and len(val) == 5 and not train & val


def test_layouts_agree(root):
    """Polygons and label maps show the same shapes, but for the pixels that an outline cuts."""
    coco = COCO(root / 'coco' / 'annotations' / 'instances_train2017.json')
    assert [category['name'] for category in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    for image_id in coco.getImgIds():
        (info,) = coco.loadImgs(image_id)
        name = info['file_name'].split('.')[0]
        labels = cv2.imread(
            str(root / f'ade/annotations/training/{name}.png'), cv2.IMREAD_UNCHANGED
        )
        assert labels.shape == (info['height'], info['width']) == (160, 192)
        assert labels.min() >= 1 and labels.max() <= 1 + len(CLASSES)
        drawn = np.ones_like(labels)
        annotations = coco.loadAnns(coco.getAnnIds(image_id))
        assert annotations
        for annotation in annotations:
            mask = coco.annToMask(annotation).astype(bool)
            drawn[mask] = annotation['category_id'] + 1
            assert mask.sum() == pytest.approx(annotation['area'], rel=0.1)
            rows, columns = np.nonzero(mask)
            left, top, width, height = annotation['bbox']
            assert columns.min() == pytest.approx(left, abs=2)
            assert rows.max() == pytest.approx(top + height, abs=2)
            assert 0 <= left <= left + width <= 192 and 0 <= top <= top + height <= 160
        assert (drawn != labels).mean() < 0.03
        assert (labels != 1).mean() > 0.01


def test_shapes_stand_out_and_stay_in_sight():
    for seed in range(20):
        image, shapes = draw_scene(np.random.default_rng(seed), 160, 192)
        assert image.shape == (160, 192, 3) and 1 <= len(shapes) <= 6
        for front, shape in enumerate(shapes):
            assert shape.visible.area > 50 and not shape.visible.interiors
            for other in shapes[front + 1 :]:
                assert shape.visible.intersection(other.visible).area < 1e-6


def test_shapes_differ_from_what_they_are_drawn_over():
    for seed in range(40):
        image, shapes = draw_scene(np.random.default_rng(seed), 160, 192)
        for shape in shapes:
            ring = shape.visible.buffer(6).difference(shape.visible.buffer(2))
            around = np.zeros((160, 192), np.uint8)
            cv2.fillPoly(around, [np.array(ring.exterior.coords).astype(np.int32)], 1)
            inside = np.zeros((160, 192), np.uint8)
            outline = np.array(shape.visible.buffer(2).exterior.coords).astype(np.int32)
            cv2.fillPoly(inside, [outline], 1)
            colours = image[(around > 0) & (inside == 0)].astype(float)
            difference = np.abs(colours - shape.colour).sum(1)
            assert np.median(difference) > 60, seed


@pytest.mark.parametrize('height, width', [(31, 192), (160, 0)])
def test_sizes(tmp_path, height, width):
    with pytest.raises(ValueError, match=f'at least 32 pixels, got {height}x{width}'):
        write_shapes(tmp_path / 'x', dict(train=1), height, width)
    assert not list(tmp_path.iterdir())
    write_shapes(tmp_path, dict(train=20), 32, 32)


def test_a_smaller_set_replaces_a_larger_one(tmp_path):
    write_shapes(tmp_path, dict(train=5, val=2), 32, 32)
    (tmp_path / 'ade' / 'images' / 'training' / 'notes.txt').write_text('mine')
    write_shapes(tmp_path, dict(train=3, val=2), 32, 32)
    for folder in ('ade/images/training', 'ade/annotations/training', 'coco/train2017'):
        images = [path for path in (tmp_path / folder).iterdir() if path.suffix != '.txt']
        assert len(images) == 3
    assert (tmp_path / 'ade' / 'images' / 'training' / 'notes.txt').is_file()


@pytest.mark.parametrize('write, layout', [(write_shapes, 'ade'), (write_classes, 'imagenet')])
def test_files_of_others_are_left_alone(tmp_path, write, layout):
    """Whose names look drawn: those of COCO are numbers, too."""
    mine = tmp_path / layout / 'train' / '000000391895.jpg'
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b'mine')
    with pytest.raises(UsageError, match=rf'{layout} holds files that were not drawn by mmrest'):
        write(tmp_path, dict(train=2, val=2), 32, 32)
    assert [path for path in tmp_path.rglob('*') if path.is_file()] == [mine]
    assert mine.read_bytes() == b'mine'


def test_folders_of_classes(tmp_path):
    """One shape in each image, as many of each class, and the same bytes for a seed."""
    for name in ('one', 'two'):
        write_classes(tmp_path / name, dict(train=8, val=3), 40, 32, seed=5)
    assert digest(tmp_path / 'one') == digest(tmp_path / 'two')
    train = sorted((tmp_path / 'one' / 'imagenet' / 'train').glob('*/*.jpg'))
    assert [path.parent.name for path in train] == ['disc'] * 3 + ['square'] * 3 + ['triangle'] * 2
    assert len({path.name for path in train}) == 8  # pictures of predictions go by the name
    assert cv2.imread(str(train[0])).shape == (40, 32, 3)
    write_classes(tmp_path / 'one', dict(train=3, val=3), 40, 32, seed=5)
    assert len(list((tmp_path / 'one' / 'imagenet' / 'train').glob('*/*.jpg'))) == 3
    with pytest.raises(ValueError, match='at least 32 pixels'):
        write_classes(tmp_path / 'x', dict(train=1), 31, 32)


@pytest.mark.parametrize('label', range(len(CLASSES)))
def test_a_shape_of_a_class(label):
    for seed in range(10):
        _, (shape,) = draw_scene(np.random.default_rng(seed), 64, 64, label)
        assert shape.label == label
        left, top, right, bottom = shape.visible.bounds
        assert -1 <= left < right <= 65 and -1 <= top < bottom <= 65
