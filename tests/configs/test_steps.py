"""Every method with every family: a step of training in two precisions, and inference."""

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner

from mmrest.engine.config import dicts, without_sync_bn
from tests.drawn import HEIGHT, WIDTH
from tests.runs import ROOT

slow = pytest.mark.slow
CONFIGS = [
    'retinanet_rmt_t_1x', 'maskrcnn_rest_lite_1x', 'upernet_rmt_t_160k', 'semfpn_rest_lite_80k',
    *(pytest.param(name, marks=slow) for name in (
        'retinanet_rest_lite_1x', 'maskrcnn_rmt_t_1x', 'upernet_rest_lite_160k',
        'semfpn_rmt_t_80k', 'cascade_maskrcnn_rest_lite_1x', 'cascade_maskrcnn_rmt_t_1x',
        'upernet_rmt_swin_t_160k', 'upernet_rmt_deit_s_160k',
    )),
]  # fmt: skip


def small(dataloader, root):
    """A dataloader of a config on the synthetic data, its images not enlarged."""
    dataloader.update(num_workers=0, persistent_workers=False, batch_size=2)
    dataloader.dataset.data_root = str(root)
    kept = ('LoadImageFromFile', 'LoadAnnotations', 'PackDetInputs', 'PackSegInputs')
    steps = [step for step in dataloader.dataset.pipeline if step.type in kept]
    steps.insert(1, dict(type='Resize', scale=(WIDTH, HEIGHT), keep_ratio=True))
    dataloader.dataset.pipeline = steps
    return Runner.build_dataloader(dataloader, seed=0)


@pytest.fixture(scope='module')
def prepared(request, coco_root, ade_root):
    """Model, config, a batch to train on and one to infer on."""
    cfg = Config.fromfile(ROOT / 'configs' / f'{request.param}.py')
    __import__(f'{cfg.default_scope}.utils').utils.register_all_modules(False)
    without_sync_bn(cfg)
    for _, part in dicts(cfg.model.get('test_cfg'), 'test_cfg'):
        if 'score_thr' in part:  # untrained networks are sure of nothing
            part.update(score_thr=0.0, max_per_img=5)
    for _, part in dicts(cfg.model.get('train_cfg'), 'train_cfg'):
        if part.get('type') == 'RandomSampler':
            part.num = 32
    root = coco_root if cfg.default_scope == 'mmdet' else ade_root
    if cfg.default_scope == 'mmseg':
        cfg.model.data_preprocessor['size'] = (HEIGHT, WIDTH)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
        model.init_weights()
        batches = [
            next(iter(small(cfg[f'{phase}_dataloader'], root))) for phase in ('train', 'val')
        ]
        yield model, cfg, *batches


@pytest.mark.parametrize('prepared', CONFIGS, indirect=True)
@pytest.mark.parametrize('dtype', [
    torch.float32, *(pytest.param(t, marks=slow) for t in (torch.bfloat16, torch.float16)),
])  # fmt: skip
def test_step(prepared, dtype):
    """All losses and gradients are finite, and the parameters change."""
    model, cfg, batch, _ = prepared
    model.train()
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    optimizer.zero_grad()
    with torch.autocast('cpu', dtype=dtype, enabled=dtype != torch.float32):
        data = model.data_preprocessor(batch, True)
        loss, parts = model.parse_losses(model(**data, mode='loss'))
    assert all(torch.isfinite(value).all() for value in parts.values()), parts
    loss.backward()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    optimizer.step()
    changed = [not torch.equal(a, b) for a, b in zip(before, model.parameters())]
    assert sum(changed) > 0.9 * len(changed)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


@pytest.mark.parametrize('prepared', CONFIGS, indirect=True)
def test_inference(prepared):
    model, cfg, _, batch = prepared
    model.eval()
    with torch.no_grad():
        samples = model.test_step(batch)
    assert len(samples) == 2
    for sample in samples:
        if cfg.default_scope == 'mmseg':
            labels = sample.pred_sem_seg.data
            assert labels.shape == (1, HEIGHT, WIDTH) and 0 <= labels.min() <= labels.max() < 150
            continue
        found = sample.pred_instances
        assert 0 < len(found) <= 5 and found.bboxes.shape == (len(found), 4)
        assert found.bboxes.min() >= 0 and found.bboxes[:, 2].max() <= WIDTH
        assert found.scores.shape == found.labels.shape == (len(found),)
        assert ('masks' in found) is ('retinanet' not in cfg.filename)
        if 'masks' in found:
            assert found.masks.shape == (len(found), HEIGHT, WIDTH)
            assert found.masks.dtype == torch.bool
