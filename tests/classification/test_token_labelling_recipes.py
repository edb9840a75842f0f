"""The configs of token labelling against the recipe, the authors' log and those of 300 epochs."""

import math

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, PARAM_SCHEDULERS, TRANSFORMS
from mmpretrain.utils import register_all_modules

from mmrest.engine.config import load_config
from tests.tools.runs import ROOT

RECIPES = {
    # size: (drop path, channels of the last map, tokens, their channels)
    's': (0.1, 512, 'projected', 1024),
    'b': (0.4, 512, 'last', 512),
    'l': (0.5, 640, 'last', 640),
}


def config(name):
    register_all_modules()
    return Config.fromfile(ROOT / 'configs' / f'imagenet_{name}.py')


@pytest.fixture(params=RECIPES)
def recipe(request):
    """Config, that of the same size without token labelling, and the row above."""
    size = request.param
    return config(f'rmt_{size}_tl_310e'), config(f'rmt_{size}_300e'), RECIPES[size]


def test_model(recipe):
    cfg, plain, (drop_path, channels, tokens, token_channels) = recipe
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert type(model).__name__ == 'TokenLabelClassifier'
    assert model.backbone.drop_path_rate == drop_path
    assert model.backbone.out_channels == (channels,) and not model.backbone.extra_norms
    assert model.neck.tokens == tokens
    assert model.neck.proj.weight.shape == (1024, channels)
    assert model.head.fc.weight.shape == (1000, 1024)
    assert model.head.aux_fc.weight.shape == (1000, token_channels)
    assert model.head.dense_weight == 0.5
    assert model.head.loss_module.label_smooth_val == 0.1
    assert model.data_preprocessor.batch_augments is None  # neither Mixup nor CutMix
    assert plain.model.train_cfg.augments
    assert cfg.data_preprocessor == plain.data_preprocessor


def test_schedule(recipe):
    cfg, plain, _ = recipe
    assert cfg.train_cfg == dict(plain.train_cfg, max_epochs=310)
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.lr, cfg.auto_scale_lr.base_batch_size) == (2e-3, 2048)
    before = plain.optim_wrapper.optimizer.lr / plain.auto_scale_lr.base_batch_size
    assert optimizer.lr / cfg.auto_scale_lr.base_batch_size == before  # per image
    optimizer.lr = plain.optim_wrapper.optimizer.lr
    assert cfg.optim_wrapper == plain.optim_wrapper
    average = cfg.custom_hooks[0]
    assert average.momentum == pytest.approx(1 - 0.99996**4, rel=1e-3)
    others = plain.custom_hooks
    assert cfg.custom_hooks == [dict(others[0], momentum=average.momentum), *others[1:]]


def test_rates_are_those_of_the_log(recipe):
    cfg, _, _ = recipe
    each = 4  # iterations an epoch
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2e-3)
    schedulers = [
        PARAM_SCHEDULERS.build(
            scheduler, default_args=dict(optimizer=optimizer, epoch_length=each)
        )
        for scheduler in cfg.param_scheduler
    ]
    rates = []
    for _ in range(310 * each):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    assert rates[0] == pytest.approx(1e-6)
    assert max(rates) == pytest.approx(2e-3) and rates.index(max(rates)) in (
        5 * each - 1,
        5 * each,
    )
    # The log's rate is set after an epoch, and its cosine began at epoch 0, beneath the warm-up.
    for epoch, logged in ((50, 1.8798e-3), (295, 2.3051e-5), (309, 1.0204e-5)):
        assert rates[(epoch - 1) * each] == pytest.approx(logged, rel=0.02), epoch
    assert rates[-1] >= 1e-5 and math.isclose(rates[-1], 1e-5, rel_tol=0.01)


def test_pipelines_are_those_of_300_epochs_with_labels(recipe):
    cfg, plain, _ = recipe
    steps = [dict(step) for step in cfg.train_dataloader.dataset.pipeline]
    labels, pack = steps[-2:]
    assert labels == dict(
        type='LoadTokenLabels',
        label_root='data/imagenet/label_top5_train_nfnet',
        num_classes=1000,
        grid=7,
        relabel=True,
    )
    assert pack == dict(type='PackInputs', algorithm_keys=['token_label'])
    renamed = {
        'TrackedResizedCrop': 'RandomResizedCrop',
        'TrackedFlip': 'RandomFlip',
        'TrackedRandAugment': 'RandAugment',
    }
    others = [dict(step, type=renamed.get(step['type'], step['type'])) for step in steps[:-2]]
    assert [*others, dict(type='PackInputs')] == list(plain.train_dataloader.dataset.pipeline)
    for step in cfg.train_dataloader.dataset.pipeline:
        TRANSFORMS.build(dict(step, _scope_='mmpretrain'))
    for phase in ('val', 'test'):
        pipeline = cfg[f'{phase}_dataloader'].dataset.pipeline
        resize, crop = pipeline[1:3]
        assert (resize.scale, resize.edge, crop.crop_size) == (int(224 / 0.96), 'short', 224)
    assert cfg.train_dataloader.batch_size == 128 and 16 * 128 == cfg.auto_scale_lr.base_batch_size


def test_labels_move_with_the_data():
    path = ROOT / 'configs' / 'imagenet_rmt_s_tl_310e.py'
    dataset = load_config(str(path), data_root='/elsewhere').train_dataloader.dataset
    assert dataset.data_root == '/elsewhere'
    assert dataset.pipeline[-2].label_root == '/elsewhere/label_top5_train_nfnet'
