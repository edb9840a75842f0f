"""Every config of the zoo against the recipes of the papers."""

import copy
import functools
import itertools

import numpy as np
import pytest
import torch
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmrest.engine.config import load_config
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
NETWORKS = {**ARCHS, **ABLATIONS}


def test_number_of_configs():
    names = {path.stem for path in (ROOT / 'configs').glob('*.py')}
    # tests/classification and tests/cli/test_demo.py build those.
    names = {name for name in names if not name.startswith(('imagenet_', 'demo_'))}
    own = ('coco', 'coco_layer_decay', 'coco_small', 'segmentation', 'segmentation_small')
    others = {'maskrcnn_rmt_l_3x_fsdp', *(f'own_{name}' for name in own)}
    assert names == {'_'.join(config) for config in ALL} | others


@functools.lru_cache(maxsize=1)  # the schedules of a network follow each other
def build(model, optim_wrapper, scope):
    """Model on the meta device, and its optimizer, from the texts of their configs."""
    __import__(f'{scope}.utils').utils.register_all_modules(False)
    with DefaultScope.overwrite_default_scope(scope), torch.device('meta'):
        model = MODELS.build(Config.fromstring(model, '.py').model)
        # Every parameter has its own group; lookups in those of a ConfigDict would be slow.
        wrapper = Config.fromstring(optim_wrapper, '.py').to_dict()['optim_wrapper']
        return model, build_optim_wrapper(model, wrapper).optimizer


@pytest.mark.parametrize('method, name, schedule', ALL, ids=map('_'.join, ALL))
def test_config(method, name, schedule):
    """One test, because building is slow."""
    cfg = Config.fromfile(ROOT / 'configs' / f'{method}_{name}_{schedule}.py')
    texts = (Config({key: cfg[key]}).dump() for key in ('model', 'optim_wrapper'))
    model, optimizer = build(*texts, cfg.default_scope)
    check_backbone(cfg, model, method, name)
    CHECKS[method](model, NETWORKS[name][2])
    check_optimizer(cfg, model, optimizer, method, name)
    (check_coco if method in DETECTORS else check_ade)(cfg, method, name, schedule)
    check_runtime(cfg, method)


def check_arch(cfg, backbone, name):
    """Also of classifiers; return family and dims."""
    family, arch, dims, depths, drop_path = NETWORKS[name]
    assert (type(backbone).__name__, cfg.model.backbone.arch) == (family, arch)
    assert (backbone.arch.dims, backbone.arch.depths) == (dims, depths)
    assert (backbone.drop_path_rate, backbone.init_cfg) == (drop_path, None)
    return family, dims


def check_backbone(cfg, model, method, name):
    backbone = model.backbone
    family, dims = check_arch(cfg, backbone, name)
    every = tuple(range(len(dims)))
    assert backbone.out_indices == ((1, 2, 3) if method == 'retinanet' else every)
    assert (backbone.frozen_stages, backbone.norm_eval, backbone.with_cp) == (-1, False, False)
    if family == 'ResT':
        assert backbone.norm_in_path is (method in DETECTORS)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert cfg.custom_imports == dict(imports=['mmrest'], allow_failed_imports=False)
    assert cfg.get('find_unused_parameters') is None
    norms = [m for m in backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert bool(norms) is (name not in ABLATIONS)
    kind = nn.SyncBatchNorm if family == 'RMT' else nn.BatchNorm2d
    assert all(isinstance(norm, kind) for norm in norms)


def kinds(*modules):
    return [type(module).__name__ for module in modules]


def check_fpn(neck, in_channels, outputs):
    assert kinds(neck) == ['FPN']
    assert [conv.conv.in_channels for conv in neck.lateral_convs] == list(in_channels)
    assert {conv.conv.out_channels for conv in neck.lateral_convs} == {256}
    assert (neck.start_level, neck.num_outs) == (0, outputs)


def check_retinanet(model, dims):
    head = model.bbox_head
    assert kinds(model, head) == ['RetinaNet', 'RetinaHead']
    check_fpn(model.neck, dims[1:], 5)
    assert model.neck.add_extra_convs == 'on_input'
    # The first extra level begins at the last map of the backbone.
    assert model.neck.fpn_convs[3].conv.in_channels == dims[3]
    assert head.num_classes == 80 and head._forward_hooks


def check_mask_rcnn(model, dims):
    box, mask, rpn = model.roi_head.bbox_head, model.roi_head.mask_head, model.rpn_head
    assert kinds(model, box, rpn) == ['MaskRCNN', 'Shared2FCBBoxHead', 'RPNHead']
    check_fpn(model.neck, dims, 5)
    assert box.num_classes == mask.num_classes == 80 and not box.reg_class_agnostic
    check_extractors(model.roi_head)
    assert rpn._forward_hooks


def check_extractors(roi_head):
    for part in (roi_head.bbox_roi_extractor, roi_head.mask_roi_extractor):
        part = part[0] if isinstance(part, nn.ModuleList) else part
        assert part._forward_pre_hooks  # float32 under automatic mixed precision
        assert part.featmap_strides == [4, 8, 16, 32] and part.out_channels == 256


def check_cascade(model, dims):
    roi_head = model.roi_head
    assert kinds(model) == ['CascadeRCNN']
    check_fpn(model.neck, dims, 5)
    check_extractors(roi_head)
    assert roi_head.stage_loss_weights == [1, 0.5, 0.25]
    deviations = [[0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067]]
    assert len(roi_head.bbox_head) == len(roi_head.mask_head) == 3
    for box, mask, stds in zip(roi_head.bbox_head, roi_head.mask_head, deviations):
        assert (len(box.shared_convs), len(box.shared_fcs)) == (4, 1)
        assert all(isinstance(conv.norm, nn.SyncBatchNorm) for conv in box.shared_convs)
        assert box.reg_decoded_bbox and box.bbox_coder.stds == stds
        assert kinds(box.loss_bbox) == ['GIoULoss'] and box.loss_bbox.loss_weight == 10
        assert box.num_classes == mask.num_classes == 80


def check_upernet(model, dims):
    head, auxiliary = model.decode_head, model.auxiliary_head
    if len(dims) == 1:
        dims *= 4
        check_feature_pyramid(model.neck, dims[0])
    assert kinds(head, auxiliary) == ['UPerHead', 'FCNHead']
    assert (head.in_channels, head.channels, head.num_classes) == (list(dims), 512, 150)
    assert (auxiliary.in_index, auxiliary.in_channels) == (2, dims[2])
    assert (auxiliary.loss_decode.loss_weight, auxiliary.num_classes) == (0.4, 150)
    for part in (head, auxiliary):
        norms = [module for module in part.modules() if 'BatchNorm' in type(module).__name__]
        assert norms and all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    assert model.test_cfg.mode == 'whole'


def check_feature_pyramid(neck, channels):
    """Maps of strides 4, 8, 16 and 32 are computed from one of stride 16."""
    maps = copy.deepcopy(neck).eval()((torch.empty(1, channels, 6, 10, device='meta'),))
    assert [tuple(each.shape[1:]) for each in maps] == [
        (channels, 24, 40), (channels, 12, 20), (channels, 6, 10), (channels, 3, 5),
    ]  # fmt: skip


def check_semantic_fpn(model, dims):
    check_fpn(model.neck, dims, 4)
    assert kinds(model.decode_head) == ['FPNHead'] and model.decode_head.num_classes == 150
    assert not model.with_auxiliary_head and model.test_cfg.mode == 'whole'


CHECKS = {
    'retinanet': check_retinanet,
    'maskrcnn': check_mask_rcnn,
    'cascade_maskrcnn': check_cascade,
    'upernet': check_upernet,
    'semfpn': check_semantic_fpn,
}


def decays_of(optimizer, rate):
    """Return the weight decay of each parameter; all have this learning rate."""
    assert type(optimizer) is torch.optim.AdamW
    groups = optimizer.param_groups
    assert {(g['lr'], g['betas'], g['eps']) for g in groups} == {(rate, (0.9, 0.999), 1e-8)}
    return {parameter: g['weight_decay'] for g in groups for parameter in g['params']}


def check_optimizer(cfg, model, optimizer, method, name):
    rate = 6e-5 if method == 'upernet' else 1e-4
    decay = {'upernet': 0.01, 'semfpn': 1e-4}.get(method, 0.05)
    if method == 'retinanet' and name.startswith('rmt'):
        decay = 1e-4
    decays = decays_of(optimizer, rate)
    spared = {
        parameter
        for module in model.modules()
        if 'Norm' in type(module).__name__
        for parameter in module.parameters(recurse=False)
    }
    assert spared
    for parameter in model.parameters():
        without = method != 'semfpn' and parameter in spared
        assert decays[parameter] == (0 if without else decay)
    clipped = name.startswith('rest') and method in ('maskrcnn', 'cascade_maskrcnn')
    assert cfg.optim_wrapper.get('clip_grad') == (dict(max_norm=0.01) if clipped else None)
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=16)


def assert_parts(found, *expected):
    """Parts of a config, each with its type and fields; others may be given too."""
    assert [part.type for part in found] == [kind for kind, _ in expected]
    for part, (_, fields) in zip(found, expected):
        assert {key: part.get(key) for key in fields} == fields


def check_coco(cfg, method, name, schedule):
    epochs, milestones = {'1x': (12, [8, 11]), '3x': (36, [27, 33])}[schedule]
    assert (cfg.train_cfg.max_epochs, cfg.train_dataloader.batch_size) == (epochs, 2)
    assert_parts(
        cfg.param_scheduler,
        ('LinearLR', dict(start_factor=0.001, by_epoch=False, begin=0, end=500)),
        ('MultiStepLR', dict(milestones=milestones, by_epoch=True, end=epochs, gamma=0.1)),
    )
    masks, rest = method != 'retinanet', name.startswith('rest')
    crops = [
        ('RandomCrop', dict(crop_type='relative', crop_size=(0.9, 0.9))),
        ('FilterAnnotations', dict(keep_empty=False)),
    ]
    shortest = 480 if schedule == '3x' else 640
    scales = [(1333, side) for side in range(shortest, 801, 32)]
    resize = ('RandomChoiceResize', dict(scales=scales, keep_ratio=True))
    fixed = ('Resize', dict(scale=(1333, 800), keep_ratio=True))
    load = ('LoadAnnotations', dict(with_bbox=True, with_mask=masks or None))
    assert_parts(
        cfg.train_dataloader.dataset.pipeline,
        ('LoadImageFromFile', {}),
        load,
        *(crops if rest and masks else []),
        fixed if schedule == '1x' and not rest else resize,
        ('RandomFlip', dict(prob=0.5)),
        ('PackDetInputs', {}),
    )
    assert_parts(
        cfg.test_dataloader.dataset.pipeline,
        *(('LoadImageFromFile', {}), fixed, load, ('PackDetInputs', {})),
    )


def test_objects_that_a_crop_cuts_away():
    """If only the box of an object is in the crop, it is dropped: empty boxes give NaN."""
    cfg = load_config('maskrcnn_rest_lite_1x')
    with DefaultScope.overwrite_default_scope('mmdet'):
        crop = Compose(cfg.train_dataloader.dataset.pipeline[2:-2])
    masks = np.zeros((2, 100, 100), np.uint8)
    masks[0] = np.triu(masks[0] + 1, 85)  # the upper right corner
    masks[1, 40:60, 40:60] = 1
    np.random.seed(0)
    counts = set()
    for _ in range(40):
        sample = crop(dict(
            img=np.zeros((100, 100, 3), np.uint8),
            gt_bboxes=HorizontalBoxes([[85.0, 0, 100, 15], [40.0, 40, 60, 60]]),
            gt_bboxes_labels=np.array([0, 1]),
            gt_masks=BitmapMasks(masks, 100, 100),
        ))  # fmt: skip
        assert (sample['gt_bboxes'].areas > 0).all() and sample['gt_bboxes_labels'][-1] == 1
        assert len(sample['gt_masks']) == len(sample['gt_bboxes_labels'])
        counts.add(len(sample['gt_bboxes']))
    assert counts == {1, 2}


def check_ade(cfg, method, name, schedule):
    iterations = {'upernet': 160000, 'semfpn': 80000}[method]
    assert (cfg.train_cfg.max_iters, cfg.train_dataloader.batch_size) == (iterations, 4)
    poly = dict(power=0.9, eta_min=1e-6, begin=0)
    warm_up = []
    if method == 'upernet':
        poly = dict(power=1.0, eta_min=0.0, begin=1500)
        warm_up = [('LinearLR', dict(start_factor=1e-6, by_epoch=False, begin=0, end=1500))]
    poly = ('PolyLR', dict(poly, by_epoch=False, end=iterations))
    assert_parts(cfg.param_scheduler, *warm_up, poly)
    scale = dict(scale=(2048, 512), keep_ratio=True)
    assert_parts(
        cfg.train_dataloader.dataset.pipeline,
        ('LoadImageFromFile', {}),
        ('LoadAnnotations', dict(reduce_zero_label=True)),
        ('RandomResize', dict(scale, ratio_range=(0.5, 2.0))),
        ('RandomCrop', dict(crop_size=(512, 512), cat_max_ratio=0.75)),
        ('RandomFlip', dict(prob=0.5)),
        ('PhotoMetricDistortion', {}),
        ('PackSegInputs', {}),
    )
    assert cfg.model.data_preprocessor['size'] == (512, 512)
    assert_parts([cfg.test_dataloader.dataset.pipeline[1]], ('Resize', scale))


def check_runtime(cfg, method):
    metric = {'retinanet': 'coco/bbox_mAP', 'upernet': 'mIoU', 'semfpn': 'mIoU'}
    hooks = cfg.default_hooks
    assert hooks.checkpoint.save_best == metric.get(method, 'coco/segm_mAP')
    assert cfg.custom_hooks == [dict(type='InvalidLossHook')]
    evaluator = ('IoUMetric', dict(iou_metrics=['mIoU']))
    if method in DETECTORS:
        masks = method != 'retinanet'
        evaluator = ('CocoMetric', dict(metric=['bbox', 'segm'] if masks else 'bbox'))
    assert_parts([cfg.val_evaluator, cfg.test_evaluator], evaluator, evaluator)
    assert cfg.train_cfg.val_interval == {'upernet': 16000, 'semfpn': 8000}.get(method, 1)
    augmented = method in ('retinanet', 'upernet', 'semfpn')
    assert (cfg.tta_model is not None) is (cfg.tta_pipeline is not None) is augmented
