"""Every config of the zoo against the recipes of the papers."""

import copy
import functools
import itertools
from typing import NamedTuple

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from tests.runs import ROOT

ARCHS = {
    # name: (type, arch, dims, depths, drop path)
    'rest_lite': ('ResT', 'lite', (64, 128, 256, 512), (2, 2, 2, 2), 0.1),
    'rest_small': ('ResT', 'small', (64, 128, 256, 512), (2, 2, 6, 2), 0.1),
    'rest_base': ('ResT', 'base', (96, 192, 384, 768), (2, 2, 6, 2), 0.2),
    'rest_large': ('ResT', 'large', (96, 192, 384, 768), (2, 2, 18, 2), 0.2),
    'rmt_t': ('RMT', 't', (64, 128, 256, 512), (2, 2, 8, 2), 0.1),
    'rmt_s': ('RMT', 's', (64, 128, 256, 512), (3, 4, 18, 4), 0.15),
    'rmt_b': ('RMT', 'b', (80, 160, 320, 512), (4, 8, 25, 8), 0.4),
    'rmt_l': ('RMT', 'l', (112, 224, 448, 640), (4, 8, 25, 8), 0.5),
}
ABLATIONS = {
    'rmt_swin_t': ('RMT', 'swin_t', (96, 192, 384, 768), (2, 2, 6, 2), 0.2),
    'rmt_swin_s': ('RMT', 'swin_s', (96, 192, 384, 768), (2, 2, 18, 2), 0.3),
    'rmt_deit_s': ('RMT', 'deit_s', (384,), (12,), 0.1),
}
DETECTORS = ('retinanet', 'maskrcnn', 'cascade_maskrcnn')
DETECTION = list(itertools.product(DETECTORS, ARCHS, ('1x', '3x')))
SEGMENTATION = [
    (method, backbone, schedule)
    for method, schedule in (('upernet', '160k'), ('semfpn', '80k'))
    for backbone in ARCHS
]
OF_ABLATIONS = [('upernet', backbone, '160k') for backbone in ABLATIONS]
ALL = DETECTION + SEGMENTATION + OF_ABLATIONS


class Built(NamedTuple):
    """A config and its model on the meta device."""

    cfg: Config
    model: nn.Module
    optimizer: torch.optim.Optimizer


@functools.lru_cache(maxsize=1)  # the tests of one config follow each other
def build(method, backbone, schedule):
    cfg = Config.fromfile(ROOT / 'configs' / f'{method}_{backbone}_{schedule}.py')
    __import__(f'{cfg.default_scope}.utils').utils.register_all_modules(False)
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device('meta'):
        model = MODELS.build(cfg.model)
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    return Built(cfg, model, optimizer)


@pytest.fixture(scope='module')
def built(request):
    return build(*request.param)


def of(*configs):
    """Run a test for these configs."""
    names = ['_'.join(config) for config in configs]
    return pytest.mark.parametrize('built', configs, ids=names, indirect=True)


def parts(built):
    """Method, backbone and schedule of a config, by its name."""
    name = built.cfg.filename.rsplit('/', 1)[1][: -len('.py')]
    return next(config for config in ALL if '_'.join(config) == name)


def test_there_are_64_and_those_of_the_ablation_networks():
    names = {path.stem for path in (ROOT / 'configs').glob('*.py')}
    # tests/classification has those.
    names = {name for name in names if not name.startswith(('imagenet_', 'demo_cls_'))}
    assert names - {'_'.join(config) for config in ALL} == {
        'demo_cascade_maskrcnn_rmt_t',
        'demo_maskrcnn_rmt_t',
        'demo_retinanet_rest_lite',
        'demo_semfpn_rest_lite',
        'demo_upernet_rmt_t',
        'maskrcnn_rmt_l_3x_fsdp',
        'own_coco',
        'own_coco_small',
        'own_segmentation',
        'own_segmentation_small',
    }
    assert len(DETECTION + SEGMENTATION) == 64 and len(ALL) == 67
    assert {'_'.join(config) for config in ALL} <= names


@of(*ALL)
def test_config(built):
    """All that its recipe says of one config; one test, because building takes longest."""
    method, name, schedule = parts(built)
    check_backbone(built, method, name)
    check_norms(built, name)
    {
        'retinanet': check_retinanet,
        'maskrcnn': check_mask_rcnn,
        'cascade_maskrcnn': check_cascade,
        'upernet': check_upernet,
        'semfpn': check_semantic_fpn,
    }[method](built, {**ARCHS, **ABLATIONS}[name][2])
    check_optimizer(built, method, name)
    if method in DETECTORS:
        check_coco_schedule(built.cfg, schedule)
        check_coco_pipeline(built.cfg, method, name, schedule)
    else:
        check_ade_schedule(built.cfg, method)
        check_ade_pipeline(built.cfg)
    check_runtime(built.cfg, method)


def check_backbone(built, method, name):
    backbone = built.model.backbone
    family, arch, dims, depths, drop_path = {**ARCHS, **ABLATIONS}[name]
    assert type(backbone).__name__ == family
    assert built.cfg.model.backbone.arch == arch
    assert (backbone.arch.dims, backbone.arch.depths) == (dims, depths)
    assert backbone.drop_path_rate == drop_path
    every = tuple(range(len(dims)))
    assert backbone.out_indices == ((1, 2, 3) if method == 'retinanet' else every)
    assert (backbone.frozen_stages, backbone.norm_eval, backbone.with_cp) == (-1, False, False)
    assert backbone.init_cfg is None
    if family == 'ResT':
        assert backbone.norm_in_path is (method in DETECTORS)
    assert all(parameter.requires_grad for parameter in built.model.parameters())
    assert built.cfg.custom_imports == dict(imports=['mmrest'], allow_failed_imports=False)
    assert built.cfg.get('find_unused_parameters') is None


def check_norms(built, name):
    batch_norm = nn.modules.batchnorm._BatchNorm
    norms = [m for m in built.model.backbone.modules() if isinstance(m, batch_norm)]
    wanted = nn.SyncBatchNorm if name.startswith('rmt') else nn.BatchNorm2d
    assert bool(norms) is (name not in ABLATIONS)
    assert all(isinstance(norm, wanted) for norm in norms)


def check_fpn(neck, in_channels, outputs):
    assert type(neck).__name__ == 'FPN'
    assert [conv.conv.in_channels for conv in neck.lateral_convs] == list(in_channels)
    assert {conv.conv.out_channels for conv in neck.lateral_convs} == {256}
    assert (neck.start_level, neck.num_outs) == (0, outputs)


def check_retinanet(built, dims):
    assert type(built.model).__name__ == 'RetinaNet'
    check_fpn(built.model.neck, dims[1:], 5)
    assert built.model.neck.add_extra_convs == 'on_input'
    # The first extra level begins at the last map of the backbone.
    assert built.model.neck.fpn_convs[3].conv.in_channels == dims[3]
    head = built.model.bbox_head
    assert type(head).__name__ == 'RetinaHead' and head.num_classes == 80 and head._forward_hooks


def check_mask_rcnn(built, dims):
    assert type(built.model).__name__ == 'MaskRCNN'
    check_fpn(built.model.neck, dims, 5)
    box, mask = built.model.roi_head.bbox_head, built.model.roi_head.mask_head
    assert type(box).__name__ == 'Shared2FCBBoxHead' and not box.reg_class_agnostic
    assert box.num_classes == mask.num_classes == 80
    check_extractors(built.model.roi_head.bbox_roi_extractor, built.model.roi_head)
    rpn = built.model.rpn_head
    assert type(rpn).__name__ == 'RPNHead' and rpn._forward_hooks


def check_extractors(extractor, roi_head):
    for part in (extractor, roi_head.mask_roi_extractor):
        part = part[0] if isinstance(part, nn.ModuleList) else part
        assert part._forward_pre_hooks  # float32 under automatic mixed precision
        assert part.featmap_strides == [4, 8, 16, 32] and part.out_channels == 256


def check_cascade(built, dims):
    assert type(built.model).__name__ == 'CascadeRCNN'
    check_fpn(built.model.neck, dims, 5)
    roi_head = built.model.roi_head
    check_extractors(roi_head.bbox_roi_extractor, roi_head)
    assert roi_head.stage_loss_weights == [1, 0.5, 0.25]
    deviations = [[0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067]]
    assert len(roi_head.bbox_head) == len(roi_head.mask_head) == 3
    for box, mask, stds in zip(roi_head.bbox_head, roi_head.mask_head, deviations):
        assert (len(box.shared_convs), len(box.shared_fcs)) == (4, 1)
        assert all(isinstance(conv.norm, nn.SyncBatchNorm) for conv in box.shared_convs)
        assert box.reg_decoded_bbox
        assert type(box.loss_bbox).__name__ == 'GIoULoss' and box.loss_bbox.loss_weight == 10
        assert box.bbox_coder.stds == stds
        assert box.num_classes == mask.num_classes == 80


def check_upernet(built, dims):
    head, auxiliary = built.model.decode_head, built.model.auxiliary_head
    if len(dims) == 1:
        dims *= 4
        check_feature_pyramid(built.model.neck, dims[0])
    assert type(head).__name__ == 'UPerHead'
    assert (head.in_channels, head.channels, head.num_classes) == (list(dims), 512, 150)
    assert type(auxiliary).__name__ == 'FCNHead'
    assert (auxiliary.in_index, auxiliary.in_channels) == (2, dims[2])
    assert (auxiliary.loss_decode.loss_weight, auxiliary.num_classes) == (0.4, 150)
    for part in (head, auxiliary):
        norms = [module for module in part.modules() if 'BatchNorm' in type(module).__name__]
        assert norms and all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    assert built.model.test_cfg.mode == 'whole'


def check_feature_pyramid(neck, channels):
    """Maps of strides 4, 8, 16 and 32 are made from one of stride 16."""
    repeat, pyramid = neck
    assert (type(repeat).__name__, repeat.times) == ('RepeatMap', 4)
    assert type(pyramid).__name__ == 'Feature2Pyramid'
    assert list(pyramid.rescales) == [4, 2, 1, 0.5]
    assert isinstance(pyramid.upsample_4x[1], nn.SyncBatchNorm)
    maps = copy.deepcopy(neck).eval()((torch.empty(1, channels, 6, 10, device='meta'),))
    assert [tuple(each.shape[1:]) for each in maps] == [
        (channels, 24, 40), (channels, 12, 20), (channels, 6, 10), (channels, 3, 5),
    ]  # fmt: skip


def check_semantic_fpn(built, dims):
    check_fpn(built.model.neck, dims, 4)
    assert type(built.model.decode_head).__name__ == 'FPNHead'
    assert built.model.decode_head.num_classes == 150
    assert not built.model.with_auxiliary_head
    assert built.model.test_cfg.mode == 'whole'


LEARNING_RATES = {'upernet': 6e-5, 'semfpn': 1e-4}
DECAYS = {'upernet': 0.01, 'semfpn': 1e-4}


def check_optimizer(built, method, name):
    assert type(built.optimizer) is torch.optim.AdamW
    decay = DECAYS.get(method, 0.05)
    if method == 'retinanet' and name.startswith('rmt'):
        decay = 1e-4
    decays = {}
    for group in built.optimizer.param_groups:
        assert (group['lr'], group['betas']) == (LEARNING_RATES.get(method, 1e-4), (0.9, 0.999))
        decays.update({id(p): group['weight_decay'] for p in group['params']})
    spared = {
        id(parameter)
        for module in built.model.modules()
        if 'Norm' in type(module).__name__
        for parameter in module.parameters(recurse=False)
    }
    assert spared
    for parameter in built.model.parameters():
        without = method != 'semfpn' and id(parameter) in spared
        assert decays[id(parameter)] == (0 if without else decay)
    clipped = name.startswith('rest') and method in ('maskrcnn', 'cascade_maskrcnn')
    clip_grad = built.cfg.optim_wrapper.get('clip_grad')
    assert clip_grad == (dict(max_norm=0.01) if clipped else None)


def check_coco_schedule(cfg, schedule):
    epochs, milestones = {'1x': (12, [8, 11]), '3x': (36, [27, 33])}[schedule]
    assert cfg.train_cfg.max_epochs == epochs
    warm_up, steps = cfg.param_scheduler
    assert (warm_up.type, warm_up.start_factor) == ('LinearLR', 0.001)
    assert (warm_up.by_epoch, warm_up.begin, warm_up.end) == (False, 0, 500)
    assert (steps.type, steps.milestones, steps.by_epoch) == ('MultiStepLR', milestones, True)
    assert (steps.end, steps.gamma) == (epochs, 0.1)
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=16)
    assert cfg.train_dataloader.batch_size == 2


def check_coco_pipeline(cfg, method, name, schedule):
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    masks = method != 'retinanet'
    released_rest = name.startswith('rest')
    kinds = ['LoadImageFromFile', 'LoadAnnotations']
    kinds += ['RandomCrop'] if released_rest and masks else []
    fixed = schedule == '1x' and not released_rest
    kinds += ['Resize' if fixed else 'RandomChoiceResize', 'RandomFlip', 'PackDetInputs']
    assert list(steps) == kinds
    assert steps['LoadAnnotations'].with_bbox
    assert steps['LoadAnnotations'].get('with_mask', False) is masks
    if 'RandomCrop' in steps:
        crop = steps['RandomCrop']
        assert (crop.crop_type, crop.crop_size) == ('relative', (0.9, 0.9))
    if fixed:
        assert sorted(steps['Resize'].scale) == [800, 1333]
    else:
        shortest = 480 if schedule == '3x' else 640
        scales = steps['RandomChoiceResize'].scales
        assert [min(scale) for scale in scales] == list(range(shortest, 801, 32))
        assert {max(scale) for scale in scales} == {1333}
    assert steps[kinds[-3]].keep_ratio and steps['RandomFlip'].prob == 0.5
    (resize,) = [s for s in cfg.test_dataloader.dataset.pipeline if s.type == 'Resize']
    assert sorted(resize.scale) == [800, 1333] and resize.keep_ratio


def check_ade_schedule(cfg, method):
    iterations = {'upernet': 160000, 'semfpn': 80000}[method]
    assert cfg.train_cfg.max_iters == iterations
    *warm_up, poly = cfg.param_scheduler
    assert (poly.type, poly.by_epoch, poly.end) == ('PolyLR', False, iterations)
    if method == 'semfpn':
        assert (poly.power, poly.eta_min, poly.begin, warm_up) == (0.9, 1e-6, 0, [])
    else:
        assert (poly.power, poly.eta_min, poly.begin) == (1.0, 0.0, 1500)
        (linear,) = warm_up
        assert (linear.type, linear.start_factor, linear.by_epoch) == ('LinearLR', 1e-6, False)
        assert (linear.begin, linear.end) == (0, 1500)
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=16)
    assert cfg.train_dataloader.batch_size == 4


def check_ade_pipeline(cfg):
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert list(steps) == [
        'LoadImageFromFile', 'LoadAnnotations', 'RandomResize', 'RandomCrop', 'RandomFlip',
        'PhotoMetricDistortion', 'PackSegInputs',
    ]  # fmt: skip
    resize, crop = steps['RandomResize'], steps['RandomCrop']
    assert (resize.scale, resize.ratio_range) == ((2048, 512), (0.5, 2.0)) and resize.keep_ratio
    assert (crop.crop_size, crop.cat_max_ratio) == ((512, 512), 0.75)
    assert steps['RandomFlip'].prob == 0.5
    assert cfg.model.data_preprocessor['size'] == (512, 512)
    (resize,) = [s for s in cfg.test_dataloader.dataset.pipeline if s.type == 'Resize']
    assert resize.scale == (2048, 512) and resize.keep_ratio


def check_runtime(cfg, method):
    metric = {'retinanet': 'coco/bbox_mAP', 'maskrcnn': 'coco/segm_mAP'}
    metric['cascade_maskrcnn'] = 'coco/segm_mAP'
    assert cfg.default_hooks.checkpoint.save_best == metric.get(method, 'mIoU')
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        if method in DETECTORS:
            masks = method != 'retinanet'
            assert evaluator.type == 'CocoMetric'
            assert evaluator.metric == (['bbox', 'segm'] if masks else 'bbox')
        else:
            assert (evaluator.type, evaluator.iou_metrics) == ('IoUMetric', ['mIoU'])
    assert cfg.train_cfg.val_interval == {'upernet': 16000, 'semfpn': 8000}.get(method, 1)
    assert cfg.default_hooks.visualization.draw
    assert cfg.custom_hooks == [dict(type='InvalidLossHook')]
    augmented = method in ('retinanet', 'upernet', 'semfpn')
    assert (cfg.tta_model is not None) is augmented
    assert (cfg.tta_pipeline is not None) is augmented
