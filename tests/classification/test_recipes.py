"""The configs of ImageNet against the recipe of the papers, and one step of training."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample
from torch import nn

from tests.classification.networks import NETWORKS, build, config
from tests.configs.test_recipes import ABLATIONS, ARCHS
from tests.tools.runs import ROOT


def test_all_are_there():
    names = {path.stem for path in (ROOT / 'configs').glob('imagenet_*.py')}
    assert {f'imagenet_{name}_300e' for name in (*NETWORKS, *ABLATIONS)} <= names


@pytest.fixture(scope='module', params=[*NETWORKS, *ABLATIONS])
def built(request):
    """Name, config and model on the meta device."""
    cfg = config(request.param)
    return request.param, cfg, build(cfg, 'meta')


def test_network(built):
    name, cfg, model = built
    family, arch, dims, depths, drop_path = {**ARCHS, **ABLATIONS}[name]
    backbone = model.backbone
    assert (type(backbone).__name__, cfg.model.backbone.arch) == (family, arch)
    assert (backbone.arch.dims, backbone.arch.depths) == (dims, depths)
    assert (backbone.drop_path_rate, backbone.out_indices) == (drop_path, (len(dims) - 1,))
    assert backbone.init_cfg is None
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert bool(norms) == (name in ARCHS) and all(type(norm) is nn.BatchNorm2d for norm in norms)
    is_projected = family == 'RMT' and name in ARCHS
    assert type(model.neck).__name__ == (
        'RMTProjection' if is_projected else 'GlobalAveragePooling'
    )
    assert model.head.fc.weight.shape == (1000, 1024 if is_projected else dims[-1])
    assert cfg.custom_imports.imports == ['mmrest.classification']


def test_losses_and_mixing(built):
    _, cfg, model = built
    loss = model.head.loss_module
    assert type(loss).__name__ == 'LabelSmoothLoss'
    assert (loss.label_smooth_val, loss.mode) == (0.1, 'original')
    augments = {a.type: a.alpha for a in cfg.model.train_cfg.augments}
    assert augments == {'Mixup': 0.8, 'CutMix': 1.0} and 'probs' not in cfg.model.train_cfg


def test_schedule(built):
    _, cfg, model = built
    assert (cfg.train_cfg.max_epochs, cfg.train_cfg.by_epoch) == (300, True)
    warm_up, cosine = cfg.param_scheduler
    assert (warm_up.type, warm_up.begin, warm_up.end) == ('LinearLR', 0, 5)
    assert warm_up.convert_to_iter_based and warm_up.start_factor == 1e-3
    assert (cosine.type, cosine.begin, cosine.end, cosine.T_max) == (
        'CosineAnnealingLR', 5, 300, 295,
    )  # fmt: skip
    assert cosine.eta_min == 1e-5
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=1024)
    assert cfg.train_dataloader.batch_size * 8 == 1024
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    assert type(optimizer) is torch.optim.AdamW
    decays = {}
    for group in optimizer.param_groups:
        assert (group['lr'], group['betas'], group['eps']) == (1e-3, (0.9, 0.999), 1e-8)
        decays.update({id(p): group['weight_decay'] for p in group['params']})
    for name, parameter in model.named_parameters():
        spared = parameter.ndim == 1  # norms and biases
        assert decays[id(parameter)] == (0 if spared else 0.05), name


def test_average(built):
    _, cfg, _ = built
    average, invalid = cfg.custom_hooks
    assert (average.type, average.momentum, average.update_buffers) == ('EMAHook', 8e-5, True)
    assert invalid == dict(type='InvalidLossHook')
    assert cfg.default_hooks.checkpoint.save_best == 'accuracy/top1'


def test_pipelines(built):
    _, cfg, _ = built
    train = cfg.train_dataloader.dataset.pipeline
    assert [step.type for step in train] == [
        'LoadImageFromFile', 'RandomResizedCrop', 'RandomFlip', 'RandAugment', 'RandomErasing',
        'PackInputs',
    ]  # fmt: skip
    _, crop, flip, augment, erase, _ = train
    assert (crop.scale, crop.interpolation, flip.prob) == (224, 'bicubic', 0.5)
    # m9-mstd0.5-inc
    assert (augment.policies, augment.num_policies) == ('timm_increasing', 2)
    assert (augment.magnitude_level, augment.total_level, augment.magnitude_std) == (9, 10, 0.5)
    assert (erase.erase_prob, erase.mode) == (0.25, 'rand')
    for phase in ('val', 'test'):
        loader = cfg[f'{phase}_dataloader']
        assert [step.type for step in loader.dataset.pipeline] == [
            'LoadImageFromFile', 'ResizeEdge', 'CenterCrop', 'PackInputs',
        ]  # fmt: skip
        _, resize, centre, _ = loader.dataset.pipeline
        assert (resize.scale, resize.edge, resize.interpolation) == (256, 'short', 'bicubic')
        assert centre.crop_size == 224
        evaluator = cfg[f'{phase}_evaluator']
        assert (evaluator.type, evaluator.topk) == ('Accuracy', (1, 5))
    assert cfg.data_preprocessor == dict(
        num_classes=1000, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
    )


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('name', [*NETWORKS, *ABLATIONS])
def test_step(name, dtype):
    """A batch that Mixup or CutMix has mixed: finite, and every parameter moves.

    At the highest rate of the recipe. Gradients behind a layer scale of 1e-6 are so far below
    Adam's epsilon that rounding can leave a bias where it is; the first step raises the scale.
    """
    cfg = config(name, small=True)
    cfg.model.data_preprocessor = cfg.data_preprocessor
    cfg.model.backbone.drop_path_rate = 0.0
    model = build(cfg)
    model.init_weights()
    model.train()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    assert {group['lr'] for group in wrapper.optimizer.param_groups} == {1e-3}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    samples = [DataSample().set_gt_label(label) for label in (3, 999, 0, 3)]
    batch = dict(
        inputs=list(torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)), data_samples=samples
    )
    data = model.data_preprocessor(batch, True)
    mixed = torch.stack([sample.gt_score for sample in data['data_samples']])
    assert mixed.shape == (4, 1000) and torch.allclose(mixed.sum(1), torch.ones(4))
    scales = getattr(model.backbone.arch, 'layer_scale', ())
    for _ in range(2 if any(scales) else 1):
        with torch.autocast('cpu', dtype=dtype, enabled=dtype != torch.float32):
            loss, parts = model.parse_losses(model(**data, mode='loss'))
        assert all(torch.isfinite(value).all() for value in parts.values()), parts
        wrapper.zero_grad()
        loss.backward()
        for name, parameter in model.named_parameters():
            assert torch.isfinite(parameter.grad).all(), name
            # Adding a constant to the logits of a head does not change its softmax.
            assert parameter.grad.any() or name.endswith('transform_conv.bias'), name
        wrapper.optimizer.step()
    still = [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
    assert all(name.endswith('transform_conv.bias') for name in still), still
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
