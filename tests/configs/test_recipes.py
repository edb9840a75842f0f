"""What the configs say against the recipes of the papers."""

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from mmrest.models.rmt import ARCHS
from tests.tools.runs import ROOT


@pytest.fixture(scope='module')
def cfg():
    register_all_modules()
    return Config.fromfile(ROOT / 'configs' / 'maskrcnn_rmt_s_3x.py')


def test_schedule_3x(cfg):
    assert cfg.train_cfg.max_epochs == 36
    warm_up, steps = cfg.param_scheduler
    assert (warm_up.type, warm_up.start_factor) == ('LinearLR', 0.001)
    assert (warm_up.by_epoch, warm_up.begin, warm_up.end) == (False, 0, 500)
    assert (steps.type, steps.milestones, steps.by_epoch) == ('MultiStepLR', [27, 33], True)
    assert steps.end == 36
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=16)
    assert cfg.train_dataloader.batch_size == 2


def test_scales(cfg):
    kinds = [step.type for step in cfg.train_dataloader.dataset.pipeline]
    assert kinds == [
        'LoadImageFromFile',
        'LoadAnnotations',
        'RandomChoiceResize',
        'RandomFlip',
        'PackDetInputs',
    ]
    resize, flip = cfg.train_dataloader.dataset.pipeline[2:4]
    assert [min(scale) for scale in resize.scales] == list(range(480, 801, 32))
    assert {max(scale) for scale in resize.scales} == {1333} and resize.keep_ratio
    assert flip.prob == 0.5
    (test_resize,) = [s for s in cfg.test_dataloader.dataset.pipeline if s.type == 'Resize']
    assert sorted(test_resize.scale) == [800, 1333] and test_resize.keep_ratio


def test_detector(cfg):
    with torch.device('meta'):
        detector = MODELS.build(cfg.model)
    backbone = detector.backbone
    assert type(backbone).__name__ == 'RMT' and backbone.arch == ARCHS['s']
    assert (backbone.drop_path_rate, backbone.out_indices) == (0.15, (0, 1, 2, 3))
    assert (backbone.frozen_stages, backbone.norm_eval, backbone.init_cfg) == (-1, False, None)
    assert all(p.requires_grad for p in detector.parameters())
    assert [m for m in backbone.modules() if isinstance(m, torch.nn.SyncBatchNorm)]
    assert [conv.conv.in_channels for conv in detector.neck.lateral_convs] == [64, 128, 256, 512]
    assert detector.roi_head.bbox_head.num_classes == 80


def test_optimizer(cfg):
    with torch.device('meta'):
        detector = MODELS.build(cfg.model)
    optimizer = build_optim_wrapper(detector, cfg.optim_wrapper).optimizer
    assert type(optimizer) is torch.optim.AdamW
    decays = {}
    for group in optimizer.param_groups:
        assert (group['lr'], group['betas']) == (1e-4, (0.9, 0.999))
        decays.update({id(p): group['weight_decay'] for p in group['params']})
    norms = [m for m in detector.modules() if 'Norm' in type(m).__name__]
    of_norms = {id(p) for m in norms for p in m.parameters(recurse=False)}
    assert len(of_norms) > 100
    for parameter in detector.parameters():
        assert decays[id(parameter)] == (0 if id(parameter) in of_norms else 0.05)


def test_custom_imports(cfg):
    assert cfg.custom_imports == dict(imports=['mmrest'], allow_failed_imports=False)
