"""Datasets of folders: one line if they do not match the network or do not load."""

import shutil

import numpy as np
import pytest
from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS
from torch import nn

from mmrest.datasets.shapes import write_classes
from mmrest.engine.config import load_config
from mmrest.errors import UsageError
from mmrest.preflight import Report, rehearse
from mmrest.preflight.classes import check_classes
from mmrest.preflight.data import Part, Sample
from tests.runs import run_here


@pytest.fixture
def data(tmp_path):
    write_classes(tmp_path, dict(train=6, val=3), 32, 32)
    return tmp_path / 'imagenet'


LABELS = [0, 3, *[0] * 200]
"""Of the lines of a list; the second image is not among those that the pipeline prepares."""


def rehearsed(data, options=None, thorough=False):
    cfg = load_config('demo_cls_rest_lite', options, str(data))
    cfg.work_dir = str(data.parent / 'work')
    return rehearse(cfg, ('train', 'val'), thorough)


def checked(*args, **kwargs):
    return dict(rehearsed(*args, **kwargs).facts)


def test_what_fits(data):
    key = 'images of train_dataloader.dataset'
    found = checked(data, thorough=True)
    assert found[key] == '6' and found['iterations per epoch'] == '1'
    assert found['val_evaluator on the ground truth'] == 'accuracy/top1 100.000'
    assert found['first step'].startswith('loss ')


def damage(data):
    for path in data.glob('train/disc/*'):
        path.write_bytes(b'no image')


def drop_two_classes(data):
    for folder in (*data.glob('*/square'), *data.glob('*/triangle')):
        shutil.rmtree(folder)
    return {'model.head.num_classes': 1, 'data_preprocessor.num_classes': 1}


@pytest.mark.parametrize('fault, message', [
    ({'model.head.num_classes': 10}, r'model\.head\.num_classes is 10, but train_dataloader\.'
        r'dataset \(.*train/?\) has 3 classes .*set model\.head\.num_classes=3'),
    ({'data_preprocessor.num_classes': 1000},
        r'data_preprocessor\.num_classes is 1000, but .*set data_preprocessor\.num_classes=3'),
    ({'val_dataloader.dataset.data_prefix': 'absent'},
        r'^val_dataloader cannot be built: \S+absent not found; check --data-root'),
    (lambda data: shutil.rmtree(data / 'val' / 'square'),
        r"/val/?\) does not have the classes of train_dataloader.*: 'square' missing"),
    # All labels are in range but have another meaning.
    (lambda data: (data / 'val' / 'square').rename(data / 'val' / 'box'),
        r"'square' missing, 'box' added; give both .*an empty one is fine"),
    (lambda data: [(data / split / '.ipynb').mkdir() for split in ('train', 'val')],
        r'/train/? has the hidden folder \.ipynb, which train_dataloader\.dataset takes for'),
    (lambda data: [path.rename(data / 'train' / path.name) for path in data.glob('train/*/*')],
        r'Found 0 files .*; put the images of each class into a folder'),
    (damage, r'train_dataloader\.dataset\.pipeline fails on \S+disc/\S+: '),
    (drop_two_classes, 'head has one channel, over which a softmax is'),
    ({'train_dataloader.dataset.type': 'ImageNet'}, 'CustomDataset for classes of folders'),
])  # fmt: skip
def test_what_does_not_fit(data, fault, message):
    """Options of the config, or what happened to the folders."""
    options = fault(data) if callable(fault) else fault
    with pytest.raises(UsageError, match=message):
        checked(data, options if isinstance(options, dict) else None)


def test_names_of_folders(data):
    """They are numbered in alphabetical order, whatever their names in metainfo."""

    def named(*classes):
        keys = [f'{phase}_dataloader.dataset.metainfo.classes' for phase in ('train', 'val')]
        return dict.fromkeys(keys, classes)

    with pytest.raises(
        UsageError, match=r'disc, square, triangle\), but metainfo\.classes is \(tri'
    ):
        checked(data, named('triangle', 'square', 'disc'))
    assert checked(data, named('a round one', 'a square', 'another'))
    (data / 'val' / 'square').rename(data / 'val' / 'zebra')
    (warning,) = rehearsed(data, named('disc', 'square', 'triangle')).warnings
    assert 'triangle is 1, but 2 in ' in warning


def test_images_of_other_suffixes(data):
    for path in data.glob('train/disc/*'):
        path.rename(path.with_suffix('.gif'))
    (warning,) = rehearsed(data).warnings
    assert warning.startswith('train_dataloader: Found no valid file in the folder disc. Supp')


@DATASETS.register_module(force=True)
class Arrays(BaseDataset):
    """As of CIFAR, with images in one file."""

    def load_data_list(self):
        return [dict(img=np.full((32, 32, 3), 9, np.uint8), gt_label=n % 3) for n in range(8)]


def test_images_without_files(data):
    classes = dict(classes=('disc', 'square', 'triangle'))
    options, prefix = {}, dict(root='', _delete_=True)
    for phase in ('train', 'val'):
        whole = dict(type='Arrays', metainfo=classes, pipeline=[dict(type='PackInputs')])
        whole.update(data_prefix=prefix, ann_file='')
        options.update({f'{phase}_dataloader.dataset.{key}': whole[key] for key in whole})
    assert checked(data, options)['images of train_dataloader.dataset'] == '8'
    given = [f'{key}={value}' for key, value in options.items()]
    drawn = data.parent / 'drawn'
    assert not run_here(
        'browse_dataset', 'demo_cls_rest_lite', '--data-root', data, '--not-show',
        '--output-dir', drawn, '--number', 1, '--cfg-options', *given,
    )  # fmt: skip
    assert [path.name for path in drawn.iterdir()] == ['000000_image.jpg']


def test_labels_of_retrieval(data):
    """Those of an evaluation are positions in a gallery."""
    cfg = load_config('demo_cls_rest_lite', {'model.head.num_classes': 2}, str(data))
    dataset = Arrays(ann_file='', pipeline=[])
    part = Part('val_dataloader.dataset', 'val', dataset, [Sample(dataset[0], None)])
    with pytest.raises(UsageError, match='has the label 2'):
        check_classes(cfg, nn.Identity(), [part], Report())
    cfg.model.prototype = 'gallery.txt'
    check_classes(cfg, nn.Identity(), [part], Report())


def test_lists_with_labels(data):
    """mmpretrain's ann_file takes precedence over the folders."""
    (data / 'train.txt').write_text('disc/000000000002.jpg 0\nsquare/000000000001.jpg 2\n')
    options = {'train_dataloader.dataset.ann_file': 'train.txt'}
    assert checked(data, options)['images of train_dataloader.dataset'] == '2'
    # All are looked at, not only those of the images that are tried.
    (data / 'train.txt').write_text(''.join(f'disc/000000000002.jpg {n}\n' for n in LABELS))
    with pytest.raises(UsageError, match=r'has the label 3, but model\.head\.num_classes is 3'):
        checked(data, options)
