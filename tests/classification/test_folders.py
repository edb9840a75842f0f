"""Data sets of folders: what does not fit the network, or does not load, is one line."""

import shutil

import pytest

from mmrest.datasets.shapes import write_classes
from mmrest.engine.checks import check
from mmrest.engine.config import load_config
from mmrest.engine.errors import UsageError
from tests.tools.runs import ROOT


@pytest.fixture
def data(tmp_path):
    write_classes(tmp_path, dict(train=6, val=3), 32, 32)
    return tmp_path / 'imagenet'


def checked(data, options=None, thorough=False, config='demo_cls_rest_lite'):
    cfg = load_config(str(ROOT / 'configs' / f'{config}.py'), options, str(data))
    cfg.work_dir = str(data.parent / 'work')
    return dict(check(cfg, ('train', 'val'), thorough))


def test_what_fits(data):
    key = 'images of train_dataloader.dataset'
    assert checked(data)[key] == '3 folders of classes; 3 decoded'  # one of each folder
    found = checked(data, thorough=True)
    assert found[key] == '3 folders of classes; 6 images; 6 decoded'
    assert found['iterations per epoch'] == '1'


FAULTS = {
    'head': (
        {'model.head.num_classes': 10},
        r'model\.head\.num_classes is 10, but .*train holds 3 folders, one a class; set '
        r'model\.head\.num_classes=3',
    ),
    'labels that are mixed': (
        {'data_preprocessor.num_classes': 1000},
        r'data_preprocessor\.num_classes is 1000, but .*set data_preprocessor\.num_classes=3',
    ),
    'folder': (
        {'val_dataloader.dataset.data_prefix': 'absent'},
        r'data folder \(val_dataloader\.dataset\) \S+absent does not exist; give --data-root',
    ),
    'argument': (
        {'val_dataloader.dataset.split': 'val'},
        r'^val_dataloader\.dataset\.split: CustomDataset knows no such argument; leave it out$',
    ),
    'value': (
        {'val_dataloader.dataset.extensions': 3},
        r"^the data set val_dataloader\.dataset cannot be built: TypeError: 'int' object is not",
    ),
}


@pytest.mark.parametrize('options, message', FAULTS.values(), ids=FAULTS)
def test_what_does_not_fit(data, options, message):
    with pytest.raises(UsageError, match=message):
        checked(data, options)


def test_data_of_other_classes_than_imagenet(data):
    with pytest.raises(UsageError, match=r'train_dataloader\.dataset has 1000 names of classes'):
        checked(data, config='imagenet_rest_lite_300e')


def test_classes_that_only_training_has(data):
    shutil.rmtree(data / 'val' / 'square')
    message = r'^model\.head\.num_classes is 3, but \S+/val holds 2 folders, one a class; set '
    with pytest.raises(UsageError, match=message):
        checked(data)


def test_folders_that_differ(data):
    """As many, so that every number would be in range, and yet mean something else."""
    (data / 'val' / 'square').rename(data / 'val' / 'box')
    with pytest.raises(UsageError, match='box is in one of them only; make the same folders'):
        checked(data)


def test_a_damaged_image(data):
    path = data / 'train' / 'disc' / '000000000002.jpg'
    for other in path.parent.iterdir():
        other.write_bytes(b'no picture')
    with pytest.raises(
        UsageError, match=r'image \S+disc/\S+ \(train_dataloader\.dataset\) cannot'
    ):
        checked(data)


@pytest.mark.parametrize(
    'thorough, message',
    [
        (False, 'holds no image: none of its files in \\S+/train is one$'),
        (True, 'cannot be listed: RuntimeError: Found 0 files'),
    ],
)
def test_no_image(data, thorough, message):
    for image in data.glob('train/*/*.jpg'):
        image.unlink()
    with pytest.raises(UsageError, match=rf'^train_dataloader\.dataset {message}'):
        checked(data, thorough=thorough)


def test_lists_with_labels(data):
    """What mmpretrain's ann_file says goes before the folders."""
    (data / 'train.txt').write_text('disc/000000000002.jpg 0\nsquare/000000000001.jpg 2\n')
    options = {'train_dataloader.dataset.ann_file': 'train.txt'}
    assert checked(data, options)['images of train_dataloader.dataset'] == '2 images; 2 decoded'
    (data / 'train.txt').write_text('disc/000000000002.jpg 3\n')
    with pytest.raises(UsageError, match=r'has the label 3 where model\.head\.num_classes is 3'):
        checked(data, options)
