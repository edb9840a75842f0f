"""The configs of ImageNet against official networks and recipes, and one step of training."""

import math

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, TRANSFORMS, DefaultScope
from mmpretrain.structures import DataSample
from torch import nn

from tests.classification.networks import build, config, released_name
from tests.configs.test_recipes import ARCHS, NETWORKS, assert_parts, check_arch, decays_of
from tests.configs.test_steps import stepped
from tests.reference import CLASSIFICATION, classifier_shapes


@pytest.mark.parametrize('name', NETWORKS)
def test_config(name):
    """One test, because building is slow."""
    cfg = config(name)
    model = build(cfg, 'meta')
    check_network(name, cfg, model)
    check_training(cfg, model)
    check_pipelines(cfg)
    if name in CLASSIFICATION:
        found = {
            released_name(own): list(tensor.shape)
            for own, tensor in model.state_dict().items()
            if not own.endswith('num_batches_tracked')
        }
        of_backbone, others = classifier_shapes(name)
        assert found == {**of_backbone, **others}
        assert sum(p.numel() for p in model.parameters()) == CLASSIFICATION[name]['parameters']
        assert all(parameter.requires_grad for parameter in model.parameters())


def check_network(name, cfg, model):
    family, dims = check_arch(cfg, model.backbone, name)
    assert model.backbone.out_indices == (len(dims) - 1,)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert bool(norms) == (name in ARCHS) and all(type(norm) is nn.BatchNorm2d for norm in norms)
    is_projected = family == 'RMT' and name in ARCHS
    assert type(model.neck).__name__ == (
        'RMTProjection' if is_projected else 'GlobalAveragePooling'
    )
    assert model.head.fc.weight.shape == (1000, 1024 if is_projected else dims[-1])
    assert cfg.custom_imports.imports == ['mmrest.classification']


def check_training(cfg, model):
    assert_parts([cfg.model.head.loss], ('LabelSmoothLoss', dict(
        label_smooth_val=0.1, mode='original',
    )))  # fmt: skip
    augments = [('Mixup', dict(alpha=0.8)), ('CutMix', dict(alpha=1.0))]
    assert_parts(cfg.model.train_cfg.augments, *augments)
    assert 'probs' not in cfg.model.train_cfg
    assert (cfg.train_cfg.max_epochs, cfg.train_cfg.type) == (300, 'ResumableEpochLoop')
    assert_parts(
        cfg.param_scheduler,
        ('LinearLR', dict(begin=0, end=5, start_factor=1e-3, convert_to_iter_based=True)),
        ('CosineAnnealingLR', dict(begin=5, end=300, T_max=295, eta_min=1e-5)),
    )
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=1024)
    assert cfg.train_dataloader.batch_size * 8 == 1024
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        decays = decays_of(build_optim_wrapper(model, cfg.optim_wrapper).optimizer, 1e-3)
    for name, parameter in model.named_parameters():
        is_excluded = parameter.ndim == 1  # norms and biases
        assert decays[parameter] == (0 if is_excluded else 0.05), name
    average = dict(ema_type='MomentumAnnealingEMA', gamma=10, momentum=8e-5, update_buffers=True)
    assert_parts(cfg.custom_hooks, ('EMAHook', average), ('InvalidLossHook', {}))
    assert cfg.default_hooks.checkpoint.save_best == 'accuracy/top1'


def check_pipelines(cfg):
    assert_parts(
        cfg.train_dataloader.dataset.pipeline,
        ('LoadImageFromFile', {}),
        ('RandomResizedCrop', dict(scale=224, interpolation='bicubic')),
        ('RandomFlip', dict(prob=0.5)),
        # m9-mstd0.5-inc
        ('RandAugment', dict(
            policies='timm_increasing', num_policies=2, magnitude_level=9, total_level=10,
            magnitude_std=0.5,
        )),
        ('RandomErasing', dict(erase_prob=0.25, mode='rand')),
        ('PackInputs', {}),
    )  # fmt: skip
    for phase in ('val', 'test'):
        assert_parts(
            cfg[f'{phase}_dataloader'].dataset.pipeline,
            ('LoadImageFromFile', {}),
            ('ResizeEdge', dict(scale=256, edge='short', interpolation='bicubic')),
            ('CenterCrop', dict(crop_size=224)),
            ('PackInputs', {}),
        )
        assert_parts([cfg[f'{phase}_evaluator']], ('Accuracy', dict(topk=(1, 5))))
    assert cfg.data_preprocessor == dict(
        num_classes=1000, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
    )


STEPS = [(name, torch.float32) for name in NETWORKS]
STEPS += [(name, torch.bfloat16) for name in ('rest_lite', 'rmt_t', 'rmt_swin_t', 'rmt_deit_s')]


@pytest.mark.parametrize('name, dtype', STEPS)
def test_step(name, dtype):
    """With a batch after Mixup or CutMix: finite, and every parameter changes.

    At the highest learning rate of the recipe. Gradients behind a layer scale of 1e-6 are so far
    below Adam's epsilon that rounding can cancel the change; the first step raises the scale.
    """
    cfg = config(name, small=True)
    cfg.model.data_preprocessor = cfg.data_preprocessor
    cfg.model.backbone.drop_path_rate = 0.0
    model = build(cfg)
    model.init_weights()
    samples = [DataSample().set_gt_label(label) for label in (3, 999, 0, 3)]
    images = list(torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8))
    data = model.data_preprocessor(dict(inputs=images, data_samples=samples), True)
    mixed = torch.stack([sample.gt_score for sample in data['data_samples']])
    assert mixed.shape == (4, 1000) and torch.allclose(mixed.sum(1), torch.ones(4))
    check_step(cfg, model, data, dtype)


def check_step(cfg, model, data, dtype):
    """Every parameter has a gradient and changes; returns the losses."""
    scales = getattr(model.backbone.arch, 'layer_scale', ())
    losses, unchanged = stepped(cfg, model, data, dtype, steps=2 if any(scales) else 1)
    without_gradient = [name for name, p in model.named_parameters() if not p.grad.any()]
    # Adding a constant to the logits of a head does not change its softmax.
    for name in unchanged + without_gradient:
        assert name.endswith('transform_conv.bias')
    return losses


TOKEN_LABELLING = {
    # size: (drop path, tokens, their channels, parameters)
    's': (0.1, 'projected', 1024, 27_992_240),
    'b': (0.4, 'last', 512, 54_667_896),
    'l': (0.5, 'last', 640, 96_105_864),
}


@pytest.mark.parametrize('size', TOKEN_LABELLING)
def test_token_labelling(size):
    """Differences of the authors' recipe from the one with 300 epochs."""
    cfg, plain = config(f'rmt_{size}_tl_310e'), config(f'rmt_{size}')
    drop_path, tokens, channels, parameters = TOKEN_LABELLING[size]
    model = build(cfg, 'meta')
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert model.backbone.drop_path_rate == drop_path
    cfg.model.backbone.pop('drop_path_rate', None)  # RMT-S* alone has another one than RMT-S
    steps, phases = 'train_dataloader.dataset.pipeline', ('val', 'test')
    plain.merge_from_dict({
        'model.type': 'TokenLabelClassifier',
        'model.neck': dict(type='RMTTokenProjection', tokens=tokens),
        'model.head': dict(type='TokenLabelHead', token_channels=channels, dense_weight=0.5),
        'model.train_cfg': None,  # neither Mixup nor CutMix
        'train_cfg.max_epochs': 310,
        'auto_scale_lr.base_batch_size': 16 * 128,  # the learning rate per image stays
        'optim_wrapper.optimizer.lr': 2e-3,
        'custom_hooks.0.momentum': pytest.approx(1 - 0.99996**4, rel=1e-3),
        f'{steps}.1.type': 'TrackedResizedCrop',
        f'{steps}.2.type': 'TrackedFlip',
        f'{steps}.3.type': 'TrackedRandAugment',
        f'{steps}.5.algorithm_keys': ['token_label'],
        **{f'{phase}_dataloader.dataset.pipeline.1.scale': int(224 / 0.96) for phase in phases},
    })  # fmt: skip
    labels = dict(label_root='data/imagenet/label_top5_train_nfnet', num_classes=1000, grid=7)
    labels.update(type='LoadTokenLabels', relabel=True)
    plain.train_dataloader.dataset.pipeline.insert(-1, labels)
    for key in plain.keys() - {'param_scheduler', 'train_pipeline', 'test_pipeline', 'backbone'}:
        assert cfg[key] == plain[key], key
    for step in cfg.train_dataloader.dataset.pipeline:
        TRANSFORMS.build(dict(step, _scope_='mmpretrain'))


def test_token_labelling_schedule_matches_the_log():
    schedulers, *others = (config(f'rmt_{s}_tl_310e').param_scheduler for s in TOKEN_LABELLING)
    assert others == [schedulers, schedulers]
    each = 4  # iterations per epoch
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2e-3)
    default_args = dict(optimizer=optimizer, epoch_length=each)
    schedulers = [PARAM_SCHEDULERS.build(s, default_args=default_args) for s in schedulers]
    rates = []
    for _ in range(310 * each):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    assert rates[0] == pytest.approx(1e-6)
    assert max(rates) == pytest.approx(2e-3)
    assert rates.index(max(rates)) in (5 * each - 1, 5 * each)
    # The log's rate is set after an epoch, and its cosine began at epoch 0, beneath the warm-up.
    for epoch, logged in ((50, 1.8798e-3), (295, 2.3051e-5), (309, 1.0204e-5)):
        assert rates[(epoch - 1) * each] == pytest.approx(logged, rel=0.02), epoch
    assert rates[-1] >= 1e-5 and math.isclose(rates[-1], 1e-5, rel_tol=0.01)
