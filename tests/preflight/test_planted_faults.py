"""Typical faults of data and configs: each ends a rehearsal with one line that names it.

The kinds are those of reports in the trackers of mmdet, mmseg and mmengine. A few more are in
tests/cli/test_bad_input.py; what is no fault, if unusual, is in test_sound_data.py.
"""

import json
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform
from mmdet.datasets import CocoDataset
from mmengine.evaluator import BaseMetric
from mmengine.optim import ReduceOnPlateauLR, build_optim_wrapper
from mmengine.registry import METRICS, MODELS, TRANSFORMS, DefaultScope
from PIL import Image

from mmrest.checkpoint import CheckpointError
from mmrest.engine.config import load_config
from mmrest.errors import UsageError
from mmrest.preflight import rehearse

TRAIN = 'annotations/instances_train2017.json'
VAL = 'annotations/instances_val2017.json'


def rehearsed(name, options=None, thorough=False):
    """Rehearse a config of the folder; return the findings."""
    cfg = load_config(f'{name}.py', options, dict(seg='ade', voc='voc').get(name, 'coco'))
    cfg.launcher, cfg.work_dir = 'none', 'work'
    return rehearse(cfg, ('train', 'val'), thorough)


def line(name, options=None, thorough=False):
    """Return the error line of a rehearsal."""
    with pytest.raises((UsageError, CheckpointError)) as caught:
        rehearsed(name, options, thorough)
    message = str(caught.value)
    assert '\n' not in message
    return message


def edited(path, change):
    """Change a JSON file with a function."""
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content) or content))


def each(key, part=slice(None), without=None, **values):
    """Return a change of entries of a JSON file; functions get the old value."""

    def change(content):
        for entry in content[key][part]:
            entry.pop(without, None)
            for name, value in values.items():
                entry[name] = value(entry[name]) if callable(value) else value

    return change


SECOND = slice(1, None, 2)


def turned(content):
    content['categories'].reverse()


NO_OBJECT = 'train_dataloader has no object that can be used; does not use 12 of the 12 objects'
JSON_FAULTS = {
    'categories in another order': (TRAIN, turned, 'lists the categories in the order (car, bi'),
    'two categories of one name': (TRAIN, each('categories', name='person'),
        "3 categories have the name 'person'"),
    'every area 0': (TRAIN, each('annotations', area=0), NO_OBJECT),
    'all crowds': (TRAIN, each('annotations', iscrowd=1), NO_OBJECT),
    'no segmentation': (TRAIN, each('annotations', without='segmentation'),
        'annotation 1 has no segmentation, and the pipeline loads masks; add it'),
    'no iscrowd': (VAL, each('annotations', without='iscrowd'), 'has no iscrowd; add it to'),
    'no id': (TRAIN, each('annotations', without='id'), 'id of entry 0 of annotations is None'),
    'image id twice': (TRAIN, each('images', slice(2), id=1), '2 images have the id 1; make it'),
    'bbox of three numbers': (TRAIN, each('annotations', bbox=[1, 2, 3]),
        'bbox of entry 1 of annotations is [1, 2, 3], but must be the four numbers x, y, '),
    'bbox of strings': (TRAIN, each('annotations', bbox=['1', '2', '3', '4']),
        "is ['1', '2', '3', '4'], but must be the four"),
    'bbox of a number': (TRAIN, each('annotations', bbox=5), 'is 5, but must be the four'),
    'area in quotes': (TRAIN, each('annotations', area='5'), "is '5', but must be a number"),
    'no bbox': (TRAIN, each('annotations', without='bbox'), 'entry 1 of annotations is None, but'),
    'no area': (TRAIN, each('annotations', without='area'), 'area of entry 1 of annotations is N'),
    'no file name': (TRAIN, each('images', without='file_name'), 'file_name of entry 1 of images'),
    'no categories': (TRAIN, partial(dict, categories=[]),
        'is not a valid COCO annotation file: it has no categories'),
    'a category less': (TRAIN, lambda content: dict(content, categories=content['categories'][:2]),
        "class 'car' of metainfo.classes is not a category of coco/annotations/instances_train"),
    'sizes of another image': (TRAIN, each('images', height=50, width=70),
        'is 80 x 60 pixels, but its annotation says 70 x 50'),
    'boxes outside of the images': (TRAIN, each('annotations', bbox=[500, 5, 9, 9]), NO_OBJECT),
    'boxes of an image that is not listed': (TRAIN, each('annotations', image_id=99), NO_OBJECT),
    'category ids in quotes': (TRAIN, each('annotations', category_id='1'),
        "has no object that can be used; drops 12 objects of other classes: '1' (12)"),
    'RLE of transposed size': (TRAIN, each('annotations', segmentation=dict(size=[80, 60])),
        'annotation 1 has an RLE of size [80, 60], but [height, width] of its image is [60, 80]'),
    'flat polygons': (TRAIN, each('annotations', segmentation=[1, 2, 30, 40, 50, 60]),
        'annotation 1 has the segmentation [1, 2, 30, 40, 50, 60]; set it to a list of polygons'),
    'polygons of pairs': (
        TRAIN, each('annotations', segmentation=[[[1, 2], [30, 40], [50, 60]]]),
        'has the segmentation [[[1, 2], [30, 40], [50, 60]]]; set it'),
    'a number missing in a polygon': (
        TRAIN, each('annotations', segmentation=[[1, 2, 30, 40, 50, None]]),
        'set it to a list of polygons [[x1, y1, x2, y2, ...]] of numbers'),
    'a number of no value': (TRAIN, each('annotations', area=float('nan')), 'is nan, but must be'),
    'a first polygon of two points': (
        VAL, each('annotations', segmentation=lambda mask: [[1, 2, 30, 40], *mask]),
        'has the segmentation [[1, 2, 30, 40], [1'),
    'a crowd without mask': (VAL, each('annotations', iscrowd=1, segmentation=[]),
        'has the segmentation [], which pycocotools cannot read; start it with a polygon of 3'),
    'RLE that ends early': (
        TRAIN, each('annotations', segmentation=dict(size=[60, 80], counts=[100, 200])),
        'has an RLE whose counts sum to 300, but its image has 4800 pixels'),
    'iscrowd of no value': (VAL, each('annotations', iscrowd=None), 'has no iscrowd; add it to'),
    'paths of Windows': (TRAIN, each('images', file_name='C:\\images\\x.jpg'),
        'x.jpg not found; write / for \\ in the paths of ann_file'),
    'width that is not whole': (VAL, each('images', width=80.0), "TypeError: 'float' obj"),
    'width in quotes': (TRAIN, each('images', width='80'), "is '80', but must be a positive num"),
    'names that are URLs': (TRAIN, each('images', file_name='https://host/x.jpg'),
        'pipeline fails on coco/train2017/https://host/x.jpg'),
    'no annotation': (TRAIN, partial(dict, annotations=[]), 'its annotation files list none'),
    'a list': (TRAIN, lambda content: [1], 'is not a valid COCO annotation file'),
}  # fmt: skip


@pytest.mark.parametrize('fault', JSON_FAULTS)
def test_annotations_of_coco(folder, fault):
    path, change, words = JSON_FAULTS[fault]
    edited(folder / 'coco' / path, change)
    assert words in line('det')


LOAD = dict(type='LoadImageFromFile')


def classes(names):
    """Return options that set the classes of the datasets."""
    return {f'{phase}_dataloader.dataset.metainfo.classes': names for phase in ('train', 'val')}


def pipeline(phase, *steps):
    """Return options that set the pipeline of a dataset."""
    return {f'{phase}_dataloader.dataset.pipeline': [LOAD, *steps]}


PACK = dict(type='PackSegInputs')
OPTION_FAULTS = {
    'classes in another order': ('det', classes(('car', 'bicycle', 'person')),
        'set metainfo.classes in that order'),
    'all classes of COCO, of which the file has the first ones': (
        'det', classes(CocoDataset.METAINFO['classes']), "class 'motorcycle', 'airplane', 'bus'"),
    'images that an evaluation cannot draw': ('seg', {'default_hooks.visualization': dict(
        type='SegVisualizationHook', draw=True, backend_args=dict(backend='absent'))},
        "the first evaluation fails: KeyError: 'absent'"),
    'a class twice': ('det', classes(('person', 'person', 'car')),
        'metainfo.classes lists person more than once'),
    'evaluator of other annotations': ('det', {'val_evaluator.ann_file': f'coco/{TRAIN}'},
        'val_evaluator (CocoMetric) gives coco/bbox_mAP'),
    'metric that is not given': ('det', {'default_hooks.checkpoint.save_best': 'bbox_mAP'},
        'save_best is bbox_mAP, which is not a metric of val_evaluator; set one of coco/bbox_mAP'),
    'metric of segmentation': ('det', {'val_evaluator': dict(type='mmseg.IoUMetric')},
        'val_evaluator (IoUMetric) fails on the annotations of val_dataloader.dataset'),
    'metric that is not known': ('det', {'val_evaluator.metric': 'mask'},
        "metric should be one of 'bbox', 'segm'"),
    'several annotation files': (
        'det', {'train_dataloader.dataset.ann_file': ['a.json', 'b.json']},
        'if ann_file is a list, use a ConcatDataset'),
    'mosaic in a plain pipeline': (
        'det', pipeline('train', dict(type='Mosaic', img_scale=(64, 64))),
        'move it into the pipeline of a MultiImageMixDataset'),
    'maps for another neck': ('det', {'model.neck.in_channels': [8, 16, 24]},
        'the first step of training fails'),
    'misspelt hook': ('det', {'custom_hooks': [dict(type='EarlyStopHook', monitor='mIoU')]},
        'set up: KeyError: EarlyStopHook is not in the mmdet::hook registry; correct its spe'),
    'misspelt transform of a later epoch': (
        'det', {'custom_hooks': [dict(
            type='PipelineSwitchHook', switch_epoch=9, switch_pipeline=[dict(type='Load')])]},
        'set up: KeyError: Load is not in the mmdet::transform registry; correct its spelling'),
    'misspelt backend': (
        'seg', {'visualizer.vis_backends': [dict(type='LocalVisBacken')]},
        "set up: KeyError: LocalVisBacken is not in the mmseg::vis_backend registry; correct"),
    'backend that is not installed': (
        'seg', {'visualizer.vis_backends': [dict(type='NeptuneVisBackend')]},
        'NeptuneVisBackend needs neptune, which is not installed'),
    'misspelt optimizer': ('det', {'optim_wrapper.optimizer.type': 'AdanW'},
        'optim_wrapper.optimizer.type: AdanW is not registered; did you mean AdamW?'),
    'misspelt argument of the optimizer': ('det', {'optim_wrapper.optimizer.weight_decy': 0.1},
        "unexpected keyword argument 'weight_decy'"),
    'a batch larger than the dataset': (
        'det', {'train_dataloader': dict(batch_size=64, drop_last=True, batch_sampler=None)},
        'train_dataloader has no batch: its dataset is smaller than batch_size=64'),
    'a list of loaders': ('det', {'val_dataloader': [1]},
        'val_dataloader must be a dict, got [1]'),
    'misspelt option of the backbone': ('det', {'model.backbone.out_indice': (1, 2)},
        "got an unexpected keyword argument 'out_indice'"),
    'length in quotes': ('det', {'train_cfg.max_epochs': '12'},
        "train_cfg.max_epochs must be a positive integer, got '12'"),
    'two ways to name a loop': ('det', {'train_cfg.by_epoch': True},
        'set up: RuntimeError: Only one of `type` or `by_epoch` can exist'),
    'learning rate 0': ('det', {'optim_wrapper.optimizer.lr': 0},
        'the first step of training changes nothing: all gradients or learning rates are 0'),
    'losses of weight 0': ('seg', {'model.decode_head.loss_decode.loss_weight': 0.0},
        'the first step of training changes nothing'),
    'misspelt NMS': ('det', {'model.test_cfg.rcnn.nms.type': 'softnms'},
        'the first evaluation fails in roi_head.bbox_head: NameError'),  # by mmcv
    'rule of the best checkpoint': ('det', {'default_hooks.checkpoint.rule': 'les'},
        "the run cannot be set up: KeyError: 'rule must be greater, less or None"),
    'monitor of early stopping': (
        'seg', {'custom_hooks': [dict(type='EarlyStoppingHook', monitor='miou')]},
        'custom_hooks.0.monitor is miou, which is not a metric of val_evaluator; set one of aAcc'),
    'evaluation without annotations': ('seg', pipeline('val', PACK),
        'val_evaluator (IoUMetric) has nothing to compare with: the pipeline of'),
    'ignored value of a head': ('seg', {'model.decode_head.ignore_index': 254},
        'set the value of void pixels as ignore_index of the heads'),
    'no evaluation': ('det', {'train_cfg.val_interval': 0},
        'train_cfg.val_interval must be a positive integer, got 0'),
    'no loop for an evaluation': ('det', {'val_cfg': None},
        'val_dataloader, val_cfg, val_evaluator belong together; set val_cfg too'),
    'endless epoch': ('det', {'train_dataloader.sampler': dict(type='InfiniteSampler')},
        'train_dataloader.sampler (InfiniteSampler) is endless, so an epoch'),
    'training without Pack': ('seg', pipeline('train', dict(type='LoadAnnotations')),
        "the first step of training fails in model: KeyError: 'inputs'"),
    'evaluation without Pack': ('det', pipeline('val'),
        "the first evaluation fails in data_preprocessor: KeyError: 'inputs'"),
    'misspelt initialisation': ('det', {'model.neck.init_cfg': dict(type='Xaviers')},
        "set up in neck: KeyError: Xaviers is not in the mmdet::weight initializer registry"),
    'images resized before their labels are loaded': (
        'seg', pipeline(
            'train', dict(type='Resize', scale=(64, 48)), dict(type='LoadAnnotations'), PACK),
        'resizes or flips images before LoadAnnotations loads their annotations'),
    'boxes that are not flipped': (
        'det', pipeline(
            'train', dict(type='RandomFlip', prob=1.0),
            dict(type='LoadAnnotations', with_bbox=True), dict(type='PackDetInputs')),
        'resizes or flips images before LoadAnnotations loads their annotations'),
    'misspelt argument of a dataset': ('det', {'train_dataloader.dataset.filter_cfgs': {}},
        '; correct it, or set _delete_=True if it is inherited'),
    'misspelt argument of a loader': ('det', {'train_dataloader.num_worker': 2},
        "unexpected keyword argument 'num_worker'"),
    'a filter that keeps nothing': ('det', {'train_dataloader.dataset.filter_cfg.min_size': 500},
        'no images remain in its dataset'),
    'heads for fewer classes than label maps': ('seg', {'model.decode_head.num_classes': 2},
        'model.decode_head.num_classes is 2, but train_dataloader.dataset'),
    'suffix of no image': ('seg', {'train_dataloader.dataset.img_suffix': '.jpeg'},
        'no images remain'),
    'labels that are resized before an evaluation': (
        'seg', pipeline(
            'val', dict(type='LoadAnnotations', reduce_zero_label=True),
            dict(type='Resize', scale=(40, 30), keep_ratio=True), PACK),
        'put LoadAnnotations after the step that resizes'),
    'mixed images that cannot be resized': (
        'mixed', {'train_dataloader.dataset.pipeline.1.scale': (64, 'x')},
        'dataset fails on its first samples'),
}  # fmt: skip


@pytest.mark.parametrize('fault', OPTION_FAULTS)
def test_configs(folder, fault):
    name, options, words = OPTION_FAULTS[fault]
    of_dry_run = ('first ', 'ignore_index', 'set up', 'not installed')
    assert words in line(name, options, thorough=any(part in words for part in of_dry_run))


def changed_maps(folder, change):
    """Change all label maps with a function."""
    for path in folder.glob('ade/annotations/*/*.png'):
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), change(labels))


MAP_FAULTS = {
    'three channels': (np.zeros((60, 80, 3), np.uint8),
        'has 3 channels; convert colours to one class index per pixel'),
    'another size': (np.zeros((30, 40), np.uint8), 'is 40 x 30 pixels, but its image'),
    '16 bits': (np.full((60, 80), 1000, np.uint16),
        'has 16 bits, but mmseg reads only the lower 8'),
    'a value beyond the classes': (np.full((60, 80), 200, np.uint8),
        'has the label 199, but model.decode_head.num_cl'),
}  # fmt: skip


@pytest.mark.parametrize('fault', MAP_FAULTS)
def test_label_maps(folder, fault):
    labels, words = MAP_FAULTS[fault]
    cv2.imwrite(str(folder / 'ade' / 'annotations' / 'training' / '1.png'), labels)
    assert words in line('seg')


def test_label_maps_of_other_formats(folder):
    maps, labels = folder / 'ade/annotations/training', np.full((60, 80), 1000, np.uint16)
    for suffix, words in (('.jpg', 'is a JPEG, which changes'), ('.TIF', 'has 16 bits, but mm')):
        for path in maps.glob('*.png'):
            pixels = labels if suffix == '.TIF' else labels.astype(np.uint8)
            Image.fromarray(pixels).save(path.with_suffix(suffix))
        assert words in line('seg', {'train_dataloader.dataset.seg_map_suffix': suffix})


def test_images_of_several_suffixes(folder):
    (folder / 'ade/images/training/1.jpg').rename(folder / 'ade/images/training/1.JPG')
    (warning,) = (w for w in rehearsed('seg').warnings if 'label maps' in w)
    assert warning.startswith('train_dataloader.dataset does not use 1 label maps in ade/annot')
    assert warning.endswith("has an image of its name that ends with '.jpg' (img_suffix)")


def test_images_without_label_maps(folder, monkeypatch):
    """Also those that are not among the samples."""
    monkeypatch.setattr('mmrest.preflight.data.SAMPLES', 2)
    (folder / 'ade/annotations/training/4.png').unlink()
    assert '1 images of train_dataloader.dataset have no label map: 4.png not found' in line('seg')


def test_evaluation_of_images_of_several_sizes(folder):
    for path in folder.glob('ade/*/validation/1.*'):
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[:30])
    words = 'several sizes (1365 x 512, 683 x 512), but mmseg evaluates batches of one size; set'
    assert words in line('seg', {'val_dataloader.batch_size': 2})
    rehearsed('seg')  # one at a time


def test_masks_of_0_and_255(folder):
    changed_maps(folder, lambda labels: np.uint8(255 * (labels > 0)))
    warned = 'have only the values 255 after the pipeline, and 255 is ignored'
    assert any(warned in warning for warning in rehearsed('seg').warnings)


def test_one_channel_and_no_sigmoid(folder):
    changed_maps(folder, lambda labels: np.minimum(labels, 1))
    options = {**classes(('wall',)), 'model.decode_head.num_classes': 1}
    assert 'model.decode_head has one channel, over which a softmax is' in line('seg', options)
    head = dict(num_classes=2, out_channels=1)
    head['loss_decode'] = [dict(type='CrossEntropyLoss', use_sigmoid=True), dict(type='DiceLoss')]
    options = {**classes(('wall', 'door')), 'model.decode_head': head}
    assert 'DiceLoss of model.decode_head is higher for the right pred' in line('seg', options)


@pytest.mark.parametrize('name, path, words', [
    ('det', 'coco/val2017/000000000002.jpg', 'val_dataloader.dataset.pipeline fails on {}: '),
    ('seg', 'ade/annotations/training/1.png', 'fails on {}: Unidentified'),
])  # fmt: skip
def test_damaged_and_missing_files(folder, name, path, words):
    content = (folder / path).read_bytes()
    (folder / path).write_bytes(content[:30])
    assert words.format(path) in line(name)
    (folder / path).unlink()
    assert f'{path} not found' in line(name)


def test_images_that_are_not_samples(folder, monkeypatch):
    monkeypatch.setattr('mmrest.preflight.data.SAMPLES', 2)
    images = folder / 'coco' / 'train2017'
    (images / '000000000002.jpg').unlink()
    (images / '000000000004.jpg').write_bytes(b'')
    message = line('det', thorough=True)
    assert '2 images of train_dataloader.dataset not found or empty: /' in message
    assert '000000000002.jpg, /' in message and '; replace them, or remove' in message
    assert line('det') == message
    monkeypatch.setattr('mmrest.preflight.FEW_IMAGES', 7)
    rehearsed('det')  # the start of a run tries only some of a large dataset


def test_images_that_are_listed_twice(folder):
    double = each('images', slice(2), file_name='../val2017/000000000001.jpg')
    edited(folder / 'coco' / TRAIN, double)
    warnings = rehearsed('det', thorough=True).warnings
    (repeated,) = (w for w in warnings if 'dataset lists 1 image more than once: ' in w)
    assert repeated.endswith('val2017/000000000001.jpg; list each once, with all of its objects')
    assert any(
        '1 of 4 images of val_dataloader.dataset are also trained on' in w for w in warnings
    )


def test_image_with_exif_orientation(folder):
    path = folder / 'coco' / 'train2017' / '000000000001.jpg'
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)
    assert 'is 60 x 80 pixels, but its annotation says 80 x 60; fix them (an EX' in line('det')


WARNINGS = {
    'warm-up longer than the run': (
        'det', {}, 'LinearLR of param_scheduler changes until iteration 500, but the run has 2;'),
    'decay of norms': (
        'det', {'optim_wrapper.paramwise_cfg.custom_keys': {'backbone': dict(lr_mult=0.1)}},
        'undoes norm_decay_mult=0 for them'),
    'frozen stages without weights': ('det', {'model.backbone.frozen_stages': 1},
        'frozen parameter tensors keep random values'),
    'keys of no parameter': (
        'det', {'optim_wrapper.paramwise_cfg.custom_keys': {'bakbone': dict(lr_mult=0.1)}},
        'bakbone of paramwise_cfg.custom_keys is in no parameter name; did you mean backbone?'),
    'a schedule of epochs in a run of iterations': (
        'seg', {'param_scheduler': [dict(type='PolyLR', end=6)]},
        'PolyLR of param_scheduler counts epochs, but the run counts iterations'),
    'a decay that is longer than the run': (
        'seg', {'param_scheduler': [dict(type='PolyLR', by_epoch=False, end=80000)]},
        'PolyLR of param_scheduler changes until iteration 80,000, but the run has 2;'),
    'milestones after the end': (
        'det', {'param_scheduler': [dict(type='MultiStepLR', milestones=[8, 11])]},
        'MultiStepLR of param_scheduler changes until iteration 22, but the run has 2'),
    'a milestone at the end': (
        'det', {'param_scheduler': [dict(type='MultiStepLR', milestones=[1])]},
        'the last milestone of MultiStepLR of param_scheduler is the end of the run'),
    'void pixels that the metric counts': ('seg', {'val_evaluator.ignore_index': 254},
        'ignores 254, but the label maps of val_dataloader.dataset have the value 255, which is '),
    'checkpoints by epoch': ('seg', {'default_hooks.checkpoint.by_epoch': True},
        'default_hooks.checkpoint counts epochs, but the run counts iterations'),
    'no checkpoint': ('det', {'default_hooks.checkpoint': dict(
        type='CheckpointHook', interval=5, save_last=False, save_best=None)},
        'no checkpoint will be saved'),
    'an argument that a metric ignores': ('seg', {'val_evaluator.iou_metric': ['mDice']},
        'val_evaluator.iou_metric is not an argument of IoUMetric; correct its'),
    'averaged weights that cannot be resumed': (
        'det', {'runner_type': 'FlexibleRunner', 'custom_hooks': [dict(type='EMAHook')]},
        'a run with FlexibleRunner and EMAHook cannot be resumed'),
    'statistics of images of 0 to 1': (
        'det', {'model.data_preprocessor': dict(
            type='DetDataPreprocessor', mean=[0.5] * 3, std=[0.25] * 3, pad_mask=True)},
        'after data_preprocessor: its mean and std must be those of values of 0 to 255'),
    'zero label in training only': ('seg', {'val_dataloader.dataset.reduce_zero_label': False,
        'val_dataloader.dataset.pipeline.2.reduce_zero_label': False},
        'reduce_zero_label is False in val_dataloader.dataset, but True in train_dataloader'),
    'a map that no neck reads': ('det', {'model.neck.start_level': 1, 'model.neck.num_outs': 5},
        'Expected to have finished reduction"; no neck or head reads stage 0: set '
        'model.backbone.out_indices=(1, 2, 3), and count start_level'),
    'maps that no head reads': (
        'seg', {'model.neck': None, 'model.decode_head': dict(
            _delete_=True, type='FCNHead', in_channels=32, in_index=3, channels=16, num_convs=1,
            num_classes=150, norm_cfg=dict(type='BN'))},
        'Expected to have finished reduction"; no neck or head reads stage 0, 1, 2: set '
        'model.backbone.out_indices=(3,), and count'),
}  # fmt: skip


@pytest.mark.parametrize('fault', WARNINGS)
def test_warnings(folder, fault):
    name, options, words = WARNINGS[fault]
    of_dry_run = 'Expected' in words or 'after data_preprocessor' in words
    warnings = rehearsed(name, options, thorough=of_dry_run).warnings
    assert any(words in warning for warning in warnings), warnings
    options = {**options, 'find_unused_parameters': True}
    if 'Expected' in words:
        assert not any(words in w for w in rehearsed(name, options, thorough=True).warnings)


def test_scaled_learning_rate(folder):
    facts = dict(rehearsed('det', {'auto_scale_lr': dict(enable=True, base_batch_size=16)}).facts)
    assert facts['optimizer'].endswith(' x 0.125 (auto_scale_lr)')
    rehearsed('det', {'auto_scale_lr': dict(enable=True)})


def test_two_files_and_one_evaluator(folder):
    (folder / 'two.py').write_text("""
_base_ = ['./det.py']
datasets = [_base_.val_dataloader.dataset, _base_.train_dataloader.dataset]
val_dataloader = dict(dataset=dict(_delete_=True, type='ConcatDataset', datasets=datasets))
""")
    assert 'as predictions; check that both read the same ann_file' in line('two')


def test_a_data_root_that_the_base_does_not_see(folder):
    """Unless --data-root or the datasets replace that of the base."""
    (folder / 'mine.py').write_text("_base_ = './det.py'\ndata_root = 'mine/'")
    (folder / 'data').mkdir()
    (folder / 'data' / 'coco').symlink_to('../coco')
    cfg = load_config('mine.py', {'work_dir': 'work', 'launcher': 'none'})
    (warning,) = (w for w in rehearse(cfg, ('train', 'val')).warnings if 'data_root' in w)
    assert warning.startswith("data_root='mine/' has no effect: ")
    assert not any('data_root' in warning for warning in rehearsed('mine').warnings)


def test_an_annotation_of_id_0(folder):
    """pycocotools takes its id in the table of matches for "not found"."""
    edited(folder / 'coco' / VAL, lambda content: content['annotations'][0].update(id=0))
    report = rehearsed('det')
    assert ('val_evaluator on the ground truth', 'coco/bbox_mAP 1.000') in report.facts
    assert any('has the id 0, which pycocotools always' in line for line in report.warnings)


WHERE = 'train_dataloader.dataset'
LOST = f'{WHERE} does not use 6 of the 12 objects of its classes: '


@pytest.mark.parametrize('change, words, used', [
    (dict(bbox=[20, 20, 70, 60]), (f'6 of 12 boxes of {WHERE} extend',), '12 used of 12'),
    (dict(category_id=99), (f'{WHERE} drops 6 objects of other classes: 99 (6)',), '6 used of 6'),
    (dict(image_id=99), (LOST, 'image_id (int) that is not the id of an image (6)'), None),
    (dict(image_id=str), (LOST, 'image_id (str) that is not the id of an image (6)'), None),
    (dict(bbox=lambda box: [side / 80 for side in box]), (LOST, 'outside the image (6)'), None),
    (dict(bbox=[90, 9, 9, 9]), (LOST, 'or outside the image (6)'), None),
    (dict(iscrowd=1), (LOST, 'below filter_cfg.bbox_min_size (6)'), None),
    (dict(segmentation=[[1, 2, 30, 40]]), (LOST, 'no polygon of 3 points or more (6)'), None),
])  # fmt: skip
def test_objects_that_are_odd_or_not_used(folder, change, words, used):
    edited(folder / 'coco' / TRAIN, each('annotations', SECOND, **change))
    report = rehearsed('det')
    (warning,) = (w for w in report.warnings if WHERE in w)
    assert all(part in warning for part in words)
    assert (f'objects of {WHERE}', used or '6 used of 12') in report.facts


@TRANSFORMS.register_module(force=True)
class Emptied(BaseTransform):
    """As RandomCrop with recompute_bbox, if it cuts away a mask, but not its box."""

    def transform(self, results):
        results['gt_bboxes'].tensor[:1] = 0
        return results


def test_boxes_without_area(folder):
    steps = [*load_config('det.py').train_dataloader.dataset.pipeline]
    steps.insert(-1, dict(type='Emptied'))
    warnings = rehearsed('det', {'train_dataloader.dataset.pipeline': steps}).warnings
    assert any(f'{WHERE} leaves boxes without area' in warning for warning in warnings)


def test_resumed_runs(folder):
    cfg = load_config('det.py', None, 'coco')
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
    adamw = build_optim_wrapper(model, cfg.optim_wrapper)

    def saved(optimizer, *schedulers):
        state = dict(state_dict=model.state_dict(), optimizer=optimizer.state_dict())
        state.update(meta=dict(epoch=1, iter=2), param_schedulers=schedulers)
        torch.save(state, 'x.pth')

    options = dict(load_from='x.pth', resume=True)
    saved(torch.optim.SGD(model.parameters(), 0.1, momentum=0.9))
    assert 'an optimizer with momentum, but the config has' in line('det', options)
    saved(adamw)
    report = rehearsed('det', options, thorough=True)
    for words in ('nothing left to train: the checkpoint is at 1 of 1', 'from x.pth and takes p'):
        assert any(words in warning for warning in report.warnings)
    options['param_scheduler'] = [dict(type='ReduceOnPlateauLR', monitor='coco/bbox_mAP')]
    assert 'differs from the checkpoint and needs evaluations' in line('det', options, True)
    plateau = ReduceOnPlateauLR(adamw, monitor='coco/bbox_mAP', end=1).state_dict()
    plateau.update(best=0.5, cooldown_counter=1, num_bad_epochs=1)
    saved(adamw, plateau)
    report = rehearsed('det', options, thorough=True)
    assert not any('differs from' in warning for warning in report.warnings)


def test_labels_without_a_name(folder, monkeypatch):
    """As of mmdet's LVISV1Dataset, which numbers the categories of the file, not metainfo's."""
    parse = CocoDataset.parse_data_info

    def numbered(self, raw_data_info):
        info = parse(self, raw_data_info)
        for instance in info['instances']:
            instance['bbox_label'] += 2
        return info

    monkeypatch.setattr(CocoDataset, 'parse_data_info', numbered)
    assert 'has objects of label 4, but metainfo.classes has only 3 names; li' in line('det')


@METRICS.register_module(force=True)
class Odd(BaseMetric):
    """A metric of which mmengine does not know whether more is better."""

    def process(self, data_batch, data_samples):
        self.results.extend(data_samples)

    def compute_metrics(self, results):
        return dict(odd=len(results))


def test_the_best_of_a_metric_that_is_not_known(folder):
    key = 'default_hooks.checkpoint'
    options = {'val_evaluator': [dict(type='Odd')], f'{key}.save_best': 'auto'}
    assert 'key odd, thus a specific rule must be specified; set def' in line('det', options, True)
    for name in ('auto', 'mAP'):
        options.update({f'{key}.rule': 'less', f'{key}.save_best': name})
        warned = f'{key}.save_best is {name}, but the first evaluation gave odd; '
        warnings = rehearsed('det', options, thorough=True).warnings
        assert any(each.startswith(warned) for each in warnings) == (name == 'mAP')


def test_misspelt_keys(folder):
    path = folder / 'det.py'
    path.write_text(f"{path.read_text()}\ncustom_hook = [dict(type='EMAHook')]\n")
    line = 'custom_hook is not a key of the Runner, which ignores it; did you mean custom_hooks?'
    assert line in rehearsed('det').warnings
