"""Unusual but valid data passes a rehearsal, and evaluators give the best score."""

import json
import re
import shutil
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform
from mmdet.datasets import CocoDataset
from mmdet.evaluation import CocoMetric
from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import (
    DATA_SAMPLERS,
    DATASETS,
    HOOKS,
    LOOPS,
    METRICS,
    MODELS,
    OPTIM_WRAPPER_CONSTRUCTORS,
    TRANSFORMS,
)
from mmengine.runner import ValLoop
from PIL import Image
from pycocotools import mask as masks
from torch import nn
from torch.optim import SGD
from torch.utils.data import Sampler

from mmrest.engine.config import default_scope, load_config
from mmrest.engine.data_loading import ResumableBatchSampler
from mmrest.errors import UsageError
from mmrest.preflight import Report, data, rehearse
from tests.drawn import CLASSES
from tests.engine.toy import Numbers, config
from tests.preflight.test_planted_faults import (
    SECOND,
    TRAIN,
    VAL,
    changed_maps,
    classes,
    each,
    edited,
    rehearsed,
)
from tests.runs import ROOT, without_default_scope
from tests.torch_versions import needs_torch

BEST = {'coco/bbox_mAP 1.000', 'coco/segm_mAP 1.000'}


def scores(report):
    return {fact.found for fact in report.facts if 'ground truth' in fact.what}


def passed(name, options=None):
    """Train a step of a sound config; return the findings."""
    report = rehearsed(name, options, thorough=True)
    assert 'first step' in {fact.what for fact in report.facts}
    of_length = 'shorten the schedule, or train longer'
    assert all(warning.endswith(of_length) for warning in report.warnings), report.warnings
    return report


def encoded(polygons):
    whole = masks.merge(masks.frPyObjects(polygons, 60, 80))
    return dict(whole, counts=whole['counts'].decode())


def other_entries(content):
    """No object in an image, one of no image, and one of another class without a mask."""
    del content['annotations'][:3]
    content['categories'].append(dict(id=9, name='other'))
    first = dict(content['annotations'][0], image_id=999)
    other = {key: first[key] for key in ('bbox', 'area')}
    content['annotations'] += [dict(first, id=998), dict(other, id=999, image_id=2, category_id=9)]


RUN_LENGTHS = dict(size=[60, 80], counts=[100, 200, 4500])
ODDITIES = {
    'numbers': [
        each('images', id=lambda number: 1000 * number),
        each('categories', id=lambda number: 10 * number),
        each('annotations', id=lambda number: 7 * number,
             image_id=lambda number: 1000 * number, category_id=lambda number: 10 * number),
    ],
    'masks': [
        each('annotations', slice(1, 3), segmentation=lambda polygons: [*polygons, []]),
        each('annotations', slice(4, None, 2), segmentation=encoded),
        each('annotations', slice(1), iscrowd=1, segmentation=RUN_LENGTHS),
    ],
    'entries': [
        other_entries,
        each('images', slice(1), file_name='Bäume im Frühling 1.jpg'),
    ],
}  # fmt: skip


@pytest.mark.parametrize('oddity', ODDITIES)
def test_annotations_of_coco(folder, oddity):
    for path, split in ((TRAIN, 'train2017'), (VAL, 'val2017')):
        for change in ODDITIES[oddity]:
            edited(folder / 'coco' / path, change)
        image = folder / 'coco' / split / '000000000001.jpg'
        shutil.copy(image, image.with_name('Bäume im Frühling 1.jpg'))
    assert scores(rehearsed('det', thorough=True)) == BEST


def test_boxes_only(folder):
    """What only masks need may be missing or odd: segmentations, whole sizes."""
    for path in (TRAIN, VAL):
        edited(folder / 'coco' / path, each('annotations', SECOND, segmentation=[1, 2, 30, 40]))
        edited(folder / 'coco' / path, each('images', width=80.0))
    options = {f'model.roi_head.mask_{part}': None for part in ('roi_extractor', 'head')}
    options['train_dataloader.dataset.pipeline.1.with_mask'] = False
    options.update({'val_evaluator.metric': 'bbox', 'default_hooks.checkpoint.save_best': 'auto'})
    assert scores(passed('det', options)) == {'coco/bbox_mAP 1.000'}


def test_masks_of_objects_that_are_not_used(folder):
    edited(folder / 'coco' / TRAIN, each('annotations', slice(1), segmentation=[], area=0))
    facts = rehearsed('det', thorough=True).facts
    assert ('objects of train_dataloader.dataset', '11 used of 12') in facts


def test_samples_in_memory(folder, monkeypatch):
    """Four images of 60 x 80 pixels have 57,600 bytes, and their masks as many."""
    monkeypatch.setattr(data, 'MAX_BYTES', 60_000)
    cfg = load_config('det.py', None, 'coco')
    with default_scope(cfg):
        _, (part,) = data.build_loader(cfg, 'train', Report())
    assert len(part.samples) == 3


def test_images(folder):
    """Grey, with a palette, and with the usual EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = 1
    for split in ('train2017', 'val2017'):
        grey, palette, upright, _ = sorted(folder.glob(f'coco/{split}/*.jpg'))
        Image.open(grey).convert('L').save(grey)
        Image.open(palette).convert('P').save(palette, 'PNG')
        Image.open(upright).save(upright, exif=exif)
    assert scores(rehearsed('det')) == BEST


WRAPPED = """
_base_ = './det.py'
data = _base_.train_dataloader.dataset
negatives = dict(data, filter_cfg=dict(filter_empty_gt=False))
negatives['ann_file'] = 'annotations/negatives.json'
train_dataloader = dict(dataset=dict(_delete_=True, {}))
"""


@pytest.mark.parametrize('wrapper', [
    "type='RepeatDataset', times=2, dataset=data",
    "type='ClassBalancedDataset', oversample_thr=0.5, dataset=data",
    "type='ConcatDataset', datasets=[data, data, negatives]",
])  # fmt: skip
def test_wrappers(folder, wrapper):
    content = json.loads((folder / 'coco' / TRAIN).read_text())
    path = folder / 'coco' / 'annotations' / 'negatives.json'
    path.write_text(json.dumps(dict(content, annotations=[])))
    (folder / 'wrapped.py').write_text(WRAPPED.format(wrapper))
    assert scores(passed('wrapped')) == BEST


def test_mixed_images(folder):
    """The pipeline of the wrapper is rehearsed, too."""
    passed('mixed')


def test_evaluations_that_cannot_be_rehearsed(folder):
    """No image has an object, or each has more than COCO's metric counts."""
    entry = json.loads((folder / 'coco' / VAL).read_text())['annotations'][0]
    entries = [dict(entry, id=number, image_id=1 + number % 4) for number in range(1, 405)]
    for annotations in ([], entries):
        edited(folder / 'coco' / VAL, partial(dict, annotations=annotations))
        report = rehearsed('det')
        assert scores(report) == set()
        warned = any('val_dataloader has no object that can' in w for w in report.warnings)
        assert warned == (annotations == [])


@METRICS.register_module(force=True)
class OfAllImages(CocoMetric):
    """As CocoOccludedSeparatedMetric."""

    def compute_metrics(self, results):
        raise AssertionError('not all images are predicted')


def test_a_metric_that_scores_in_its_own_way(folder):
    report = rehearsed('det', {'val_evaluator.type': 'OfAllImages'}, thorough=True)
    assert scores(report) == set()
    fault = 'OfAllImages fails on one image: AssertionError: not all images are predicted; if it'
    assert any(warning.startswith(fault) for warning in report.warnings)


@DATASETS.register_module(force=True)
class Clips(BaseDataset):
    def load_data_list(self):
        return [dict(images=[dict(img_path=f'{n}.jpg') for n in range(10**4)])]

    def prepare_data(self, index):
        raise MemoryError('all images of a video')


def test_videos_of_trackers(folder):
    """They are not loaded as a whole."""
    cfg = load_config('det.py', None, 'coco')
    cfg.work_dir = 'work'
    cfg.test_dataloader.dataset = dict(type='Clips')
    cfg.test_evaluator = dict(type='DumpResults', out_file_path='x.pkl')
    assert dict(rehearse(cfg, ('test',)).facts)['images of test_dataloader.dataset'] == '1'


def test_a_config_without_optional_keys(folder):
    """Such as one that does not inherit from a runtime of OpenMMLab."""
    cfg = load_config('det.py', None, 'coco')
    for key in {'load_from', 'resume', 'env_cfg', 'default_hooks', 'log_processor', 'visualizer'}:
        cfg.pop(key, None)
    cfg.launcher, cfg.work_dir = 'none', 'work'
    assert scores(rehearse(cfg, ('train', 'val'), thorough=True)) == BEST


def test_evaluator_without_annotation_file(folder):
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'instances')
    key = 'val_dataloader.dataset.pipeline.2.meta_keys'
    assert scores(passed('det', {'val_evaluator.ann_file': None, key: keys})) == BEST


@pytest.mark.parametrize('void', [True, False])
def test_samples_of_one_class(folder, void, monkeypatch):
    """Other label maps may have more, beside a void of 255."""
    monkeypatch.setattr(data, 'SAMPLES', 1)
    above = np.arange(60)[:, None] < 9
    changed_maps(folder, lambda labels: np.where(above & void, 255, 1 + 0 * labels))
    warned = any('have only the values 0, 255' in w for w in rehearsed('seg').warnings)
    assert warned == void


def test_label_maps_of_16_bits_with_low_values(folder):
    changed_maps(folder, np.uint16)
    assert scores(rehearsed('seg')) == {'mIoU 100.000'}


@HOOKS.register_module(force=True)
class Drawings(Hook):
    """As mmpretrain's VisualizationHook, which has a folder of its own."""

    def __init__(self, out_dir):
        self.out_dir = out_dir

    def after_val_iter(self, *args, **kwargs):
        Path(self.out_dir).mkdir(exist_ok=True)
        Path(self.out_dir, 'drawn.txt').touch()


DUMP = dict(type='DumpDetResults', out_file_path='dumped.pkl')
METRIC = dict(type='CocoMetric', ann_file=f'coco/{VAL}', outfile_prefix='x', metric='segm')
ADVANCED = {
    'a strategy': {'runner_type': 'FlexibleRunner'},
    'schedules of iterations in epochs': {
        'train_dataloader.batch_size': 1,
        'param_scheduler': [
            dict(type='LinearLR', by_epoch=False, start_factor=0.1, begin=0, end=3),
            dict(type='CosineAnnealingLR', by_epoch=False, begin=3, T_max=20),
        ]},
    'a schedule of evaluations, and one of the length of the run': {'param_scheduler': [
        dict(type='LinearLR', start_factor=1.0, end_factor=0.1, end=1),
        dict(type='ReduceOnPlateauLR', monitor='coco/bbox_mAP')]},
    'checkpoints of iterations, and a loop without type': {
        'default_hooks.checkpoint': dict(type='CheckpointHook', by_epoch=False, interval=1),
        'val_cfg': dict(fp16=False, _delete_=True)},
    'fused steps, and keys of other backbones': {
        'optim_wrapper.optimizer.fused': True,
        'optim_wrapper.paramwise_cfg.custom_keys.pos_block': dict(lr_mult=0)},
    'a named backend': {'visualizer.vis_backends': [dict(type='LocalVisBackend', name='x')]},
    'masks of no class': {
        'model.roi_head.mask_head.class_agnostic': True,
        'model.roi_head.mask_head.num_classes': 80},
    'no evaluation': {'train_cfg.val_interval': 1e9},
    'no validation': {
        **dict.fromkeys(('val_dataloader', 'val_cfg', 'val_evaluator')),
        'train_cfg.val_interval': 0,
        'default_hooks.checkpoint': dict(type='CheckpointHook', save_best=None)},
    'folder of drawings': {'visualizer': dict(
        type='DetLocalVisualizer', save_dir='drawn', vis_backends=[dict(type='LocalVisBackend')])},
    'files of evaluators and of a hook': {
        'val_evaluator': [METRIC, DUMP],
        'default_hooks.checkpoint.save_best': 'auto',
        'custom_hooks': [dict(type='Drawings', out_dir='drawn')]},
    'unscaled images': {'model.data_preprocessor.std': [1.0, 1.0, 1.0]},
}  # fmt: skip


fused = needs_torch(2, 4, 'fused AdamW on a CPU')


@pytest.mark.parametrize(
    'case', [pytest.param(case, marks=[fused] * case.startswith('fused')) for case in ADVANCED]
)
def test_advanced_runs(folder, case):
    """They pass, and leave no files."""
    before = set(folder.rglob('*'))
    passed('det', ADVANCED[case])
    assert set(folder.rglob('*')) == before


@MODELS.register_module(force=True)
class Plain(nn.Module):
    """A model without what mmengine's have."""

    def __init__(self, data_preprocessor):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def train_step(self, data, optim_wrapper):
        losses = dict(loss=self.layer(data['inputs'].float()).square().mean())
        optim_wrapper.update_params(losses['loss'])
        return losses

    def val_step(self, data):
        return list(self.layer(data['inputs'].float()))


@DATASETS.register_module(force=True)
class Packed(Numbers):
    """Its pipeline packs a tensor as data_samples, and `datasets` are names."""

    def __init__(self, **options):
        super().__init__(**options)
        self.datasets = ['a', 'b']

    def prepare_data(self, index):
        return dict(super().prepare_data(index), data_samples=torch.tensor([1, 0]))


@DATA_SAMPLERS.register_module(force=True)
class Reversed(Sampler):
    def __init__(self, dataset, seed):
        self.size = len(dataset)

    def __len__(self):
        return self.size

    def __iter__(self):
        return iter(range(self.size)[::-1])

    def set_epoch(self, epoch):
        self.number = epoch


@DATA_SAMPLERS.register_module(force=True)
class Pairs(Sampler):
    def __init__(self, sampler, batch_size):
        self.sampler = sampler

    def __len__(self):
        return len(self.sampler) // 2

    def __iter__(self):
        indices = list(self.sampler)
        return zip(indices[::2], indices[1::2])


def test_parts_of_a_project(tmp_path):
    """Any model, dataset and samplers that mmengine runs."""
    cfg = config(tmp_path)
    cfg.model, cfg.data_preprocessor = dict(type='Plain'), dict(type='BaseDataPreprocessor')
    loader = dict(dataset=dict(type='Packed'), collate_fn=dict(type='default_collate'))
    samplers = dict(sampler=dict(type='Reversed'), batch_sampler=dict(type='Pairs'))
    cfg.train_dataloader = dict(loader, **samplers, batch_size=2)
    cfg.val_dataloader.update(loader)
    report = rehearse(cfg, ('train', 'val'), thorough=True)
    assert not report.warnings
    assert not ResumableBatchSampler(Pairs(Reversed(range(4), 0), 2)).is_endless


def test_types_with_their_scope(folder):
    """As in configs without a default scope, such as those in the style of Python."""
    (folder / 'scoped.py').write_text(without_default_scope('det.py', 'coco'))
    assert scores(passed('scoped')) == BEST


@DATASETS.register_module(force=True)
class Corners(CocoDataset):
    """As mmrotate's datasets: a box has the eight numbers of its corners."""

    def parse_data_info(self, raw_data_info):
        info = super().parse_data_info(raw_data_info)
        for instance in info['instances']:
            left, top, right, bottom = instance['bbox']
            instance['bbox'] = [right, top, right, bottom, left, bottom, left, top]
        return info


@TRANSFORMS.register_module(force=True)
class Upright(BaseTransform):
    def transform(self, results):
        for instance in results['instances']:
            right, top, _, _, left, bottom, *_ = instance['bbox']
            instance['bbox'] = [left, top, right, bottom]
        return results


def test_rotated_boxes(folder):
    options = {f'{phase}_dataloader.dataset.type': 'Corners' for phase in ('train', 'val')}
    load = [dict(type='LoadImageFromFile'), dict(type='Upright')]
    load.append(dict(type='LoadAnnotations', with_bbox=True, with_mask=True))
    options['train_dataloader.dataset.pipeline'] = [*load, dict(type='PackDetInputs')]
    assert scores(passed('det', options)) == set()


@LOOPS.register_module(force=True)
class Prefixed(ValLoop):
    """As mmdet's TeacherStudentValLoop."""

    def run(self):
        self.runner.call_hook('before_val')
        self.runner.call_hook('before_val_epoch')
        self.runner.call_hook('after_val_epoch', metrics={'teacher/coco/bbox_mAP': 0.1})


@pytest.mark.parametrize('trains', [True, False])
def test_metrics_of_another_loop(folder, monkeypatch, trains):
    """They are also evaluated if no step can be tried, as of semi-supervised detectors."""
    options = {'val_cfg.type': 'Prefixed'}
    key = 'default_hooks.checkpoint.save_best'
    passed('det', {**options, key: 'teacher/coco/bbox_mAP'})
    if not trains:
        monkeypatch.setattr('mmrest.preflight.step._inputs', lambda *args: [])
        options['custom_hooks'] = [dict(type='EMAHook')]
    warnings = rehearsed('det', options, thorough=True).warnings
    (warning,) = (each for each in warnings if each.startswith(key))
    assert 'but the first evaluation gave teacher/coco/bbox_mAP; set one' in warning


def test_several_evaluators(folder):
    (folder / 'two.py').write_text("""
_base_ = ['./det.py']
dataset, metric = _base_.val_dataloader.dataset, _base_.val_evaluator
val_dataloader = dict(dataset=dict(_delete_=True, type='ConcatDataset', datasets=[dataset] * 2))
val_evaluator = dict(
    _delete_=True, type='MultiDatasetsEvaluator', metrics=[metric] * 2, dataset_prefixes=['a', 'b']
)
default_hooks = dict(checkpoint=dict(save_best='auto'))
""")
    passed('two')


def test_images_of_several_sizes_that_are_padded(folder):
    for number, path in enumerate(sorted(folder.glob('ade/*/training/*'))):
        cv2.imwrite(str(path), cv2.imread(str(path), -1)[: 40 + 5 * (number % 4)])
    load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', reduce_zero_label=True)]
    options = {
        'train_dataloader.dataset.pipeline': [*load, dict(type='PackSegInputs')],
        'model.data_preprocessor.size': (128, 128),
    }
    passed('seg', options)


def test_a_void_of_another_value(folder):
    # It is 200 once zero is taken off.
    changed_maps(folder, lambda labels: np.where(labels == 0, np.uint8(201), labels))
    keys = ('model.decode_head.ignore_index', 'model.data_preprocessor.seg_pad_val')
    options = dict.fromkeys(keys, 200)
    report = rehearsed('seg', options)
    assert scores(report) == {'mIoU 100.000'} and any(
        'val_evaluator.ig' in w for w in report.warnings
    )
    assert scores(passed('seg', {**options, 'val_evaluator.ignore_index': 200})) == scores(report)


VOC = """
_base_ = ['./det.py']
data = dict(
    _delete_=True, type='XMLDataset', data_root='voc', img_subdir='JPEGImages',
    data_prefix=dict(sub_data_root=''),
    metainfo=dict(classes=('person', 'bicycle', 'car')),
)
load = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(80, 60), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
]
keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
pack = dict(type='PackDetInputs', meta_keys=keys)
train_dataloader = dict(dataset=dict(**data, ann_file='train.txt', pipeline=[*load, pack]))
val_dataloader = dict(
    dataset=dict(**data, ann_file='val.txt', test_mode=True, pipeline=[*load, pack])
)
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type='VOCMetric', metric='mAP', eval_mode='11points')
test_evaluator = val_evaluator
model = dict(roi_head=dict(mask_roi_extractor=None, mask_head=None))
default_hooks = dict(checkpoint=dict(save_best='pascal_voc/mAP'))
"""


def draw_voc(folder, car='car', corners=('xmin', 'ymin', 'xmax', 'ymax')):
    """Write the synthetic COCO dataset in VOC format."""
    root = folder / 'voc'
    for split, annotations in (('train', TRAIN), ('val', VAL)):
        content, names = json.loads((folder / 'coco' / annotations).read_text()), []
        for image in content['images']:
            size = ''.join(f'<{key}>{image[key]}</{key}>' for key in ('width', 'height'))
            objects = ''
            for annotation in content['annotations']:
                if annotation['image_id'] == image['id']:
                    x, y, w, h = annotation['bbox']
                    name = ('person', 'bicycle', car)[annotation['category_id'] - 1]
                    sides = zip(corners, (x + 1, y + 1, x + w + 1, y + h + 1))
                    box = ''.join(f'<{key}>{value}</{key}>' for key, value in sides)
                    objects += f'<object><name>{name}</name><bndbox>{box}</bndbox></object>'
            names.append(f'{split}{image["id"]}')
            for kind in ('JPEGImages', 'Annotations'):
                (root / kind).mkdir(parents=True, exist_ok=True)
            path = folder / 'coco' / f'{split}2017' / image['file_name']
            shutil.copy(path, root / 'JPEGImages' / f'{names[-1]}.jpg')
            path = root / 'Annotations' / f'{names[-1]}.xml'
            path.write_text(f'<annotation><size>{size}</size>{objects}</annotation>')
        (root / f'{split}.txt').write_text('\n'.join(names))
    (folder / 'voc.py').write_text(VOC)


def test_voc(folder):
    draw_voc(folder)
    assert scores(passed('voc')) == {'pascal_voc/mAP 1.000'}
    xml = folder / 'voc' / 'Annotations' / 'train2.xml'
    xml.write_text(xml.read_text().replace('<bndbox>', '<difficult>1</difficult><bndbox>'))
    assert ('objects of train_dataloader.dataset', '9 used of 12') in rehearsed('voc').facts
    for path in (folder / 'voc' / 'Annotations').glob('val*.xml'):  # VOCMetric gives it 0
        path.write_text(re.sub('<object>.*</object>', '', path.read_text()))
    assert not scores(rehearsed('voc'))
    xml.write_text('')
    with pytest.raises(UsageError, match=r'2.xml \(of voc/train.txt\) cannot be read: ParseError'):
        rehearsed('voc')


def test_exchanged_corners_of_voc(folder):
    draw_voc(folder, corners=('xmax', 'ymin', 'xmin', 'ymax'))
    with pytest.raises(UsageError, match=r'gives pascal_voc/mAP 0\.000 instead of 1 for the an'):
        rehearsed('voc')


def test_voc_objects_that_are_not_used(folder):
    """Those of another class, such as one in another case, and small ones."""
    edited(folder / 'coco' / TRAIN, each('annotations', slice(1), bbox=[9] * 4))
    draw_voc(folder, 'Car')
    options = {'train_dataloader.dataset.filter_cfg': dict(bbox_min_size=30)}
    warnings = rehearsed('voc', options, thorough=True).warnings
    where = 'train_dataloader.dataset'
    assert f"{where} drops 4 objects of other classes: 'Car' (4)" in warnings
    lost = f'{where} does not use 1 of the 8 objects of its classes: crowds, ignored, difficult'
    assert any(warning.startswith(lost) for warning in warnings)


def test_label_maps_of_a_detector(folder):
    """mmdet packs them under another name than mmseg."""
    (folder / 'coco' / 'maps').mkdir()
    for path in (folder / 'coco' / 'train2017').glob('*.jpg'):
        labels = np.zeros((60, 80), np.uint8)
        cv2.imwrite(str(folder / 'coco' / 'maps' / f'{path.stem}.png'), labels)
    dataset = 'train_dataloader.dataset'
    options = {f'{dataset}.data_prefix.seg': 'maps/', f'{dataset}.pipeline.1.with_seg': True}
    passed('det', options)


def test_mask2former_of_instances(folder):
    """It inherits an unused folder of panoptic annotations."""
    (folder / 'det.py').write_text("_base_ = 'mmrest::swapped/mask2former_instance_rmt_s.py'")
    options, key = classes(CLASSES), 'model.panoptic_head.num_things_classes'
    with pytest.raises(UsageError, match=f'{key} is 80, but .* has 3 classes .*; set {key}=3'):
        rehearsed('det', options)
    options.update({key: 3, 'model.panoptic_fusion_head.num_things_classes': 3})
    assert scores(rehearsed('det', options)) == BEST


@pytest.mark.parametrize('name, root, best', [
    ('maskrcnn_rmt_t_1x', 'coco', BEST),
    ('semfpn_rest_lite_80k', 'ade/ADEChallengeData2016', {'mIoU 100.000'}),
])  # fmt: skip
def test_photographs(tmp_path, photographs, name, root, best):
    cfg = load_config(str(ROOT / 'configs' / f'{name}.py'), None, str(photographs / root))
    cfg.launcher, cfg.work_dir = 'none', str(tmp_path)
    np.random.seed(0)
    expected = np.random.rand()
    np.random.seed(0)
    report = rehearse(cfg, ('train', 'val'))
    assert scores(report) == best and not any('does not use' in w for w in report.warnings)
    assert np.random.rand() == expected and not list(tmp_path.iterdir())


def of_two_parts(**options):
    """Return a constructor of an optimizer for the backbone and one for the head."""

    def construct(model):
        parts = dict(a=model.backbone, b=model.decode_head)
        optimizers = {n: SGD(p.parameters(), lr=0.1, weight_decay=0.1) for n, p in parts.items()}
        return OptimWrapperDict(**{n: OptimWrapper(o) for n, o in optimizers.items()})

    return construct


def step_of_two_parts(model, data, optim_wrapper):
    total, losses = model.parse_losses(model(**model.data_preprocessor(data, True), mode='loss'))
    total.backward()
    for wrapper in optim_wrapper.values():
        wrapper.step()
        wrapper.zero_grad()
    return losses


def test_several_optimizers(folder, monkeypatch):
    """A step is then the model's own; weight decay is not looked into."""
    monkeypatch.setitem(OPTIM_WRAPPER_CONSTRUCTORS.module_dict, 'of_two_parts', of_two_parts)
    monkeypatch.setattr('mmseg.models.EncoderDecoder.train_step', step_of_two_parts)
    warm_up = [dict(type='LinearLR', by_epoch=False, end=2)]
    keys = dict(backbone=dict(lr_mult=0.1))
    options = {
        'optim_wrapper.constructor': 'of_two_parts',
        'optim_wrapper.paramwise_cfg': dict(norm_decay_mult=0, custom_keys=keys),
    }
    for schedulers in (warm_up, dict(a=warm_up, b=warm_up)):
        passed('seg', {**options, 'param_scheduler': schedulers})
