"""Every method with every family: a step of training in two precisions, and inference.

So do the detectors and segmentors of others with a backbone of ours, configs/swapped.
"""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner

from mmrest.engine.config import PHASES, dicts, load_config
from mmrest.preflight import Report
from mmrest.preflight.schedule import check_optimizer
from tests.drawn import CLASSES, HEIGHT, WIDTH
from tests.runs import ROOT, run_here

slow = pytest.mark.slow
SWAPPED = sorted(f'swapped/{path.stem}' for path in (ROOT / 'configs' / 'swapped').glob('*.py'))
CONFIGS = [
    'retinanet_rmt_t_1x', 'maskrcnn_rest_lite_1x', 'upernet_rmt_t_160k', 'semfpn_rest_lite_80k',
    *(pytest.param(name, marks=slow) for name in (
        'retinanet_rest_lite_1x', 'maskrcnn_rmt_t_1x', 'upernet_rest_lite_160k',
        'semfpn_rmt_t_80k', 'cascade_maskrcnn_rest_lite_1x', 'cascade_maskrcnn_rmt_t_1x',
        'upernet_rmt_swin_t_160k', 'upernet_rmt_deit_s_160k',
    )),
    # The longest two are slow tests.
    *(pytest.param(n, marks=slow if 'semantic' in n or 'dino' in n else ()) for n in SWAPPED),
]  # fmt: skip


def small(name, coco_root, ade_root):
    """The config on the synthetic data, its images not enlarged, with few boxes and queries."""
    cfg = load_config(name)
    detects = cfg.default_scope == 'mmdet'
    kept = ('LoadImageFromFile', 'LoadAnnotations', 'PackDetInputs', 'PackSegInputs')
    for phase in PHASES:
        loader = cfg[f'{phase}_dataloader']
        loader.update(num_workers=0, persistent_workers=False, batch_size=2)
        loader.dataset.data_root = str(coco_root if detects else ade_root)
        steps = [step for step in loader.dataset.pipeline if step.type in kept]
        steps.insert(1, dict(type='Resize', scale=(WIDTH, HEIGHT), keep_ratio=True))
        loader.dataset.pipeline = steps
        if detects and phase != 'train':
            cfg[f'{phase}_evaluator'].ann_file = f'{coco_root}/annotations/instances_val2017.json'
    for _, part in dicts(cfg.model.get('test_cfg'), 'test_cfg'):
        if 'score_thr' in part:  # untrained networks are sure of nothing
            part.update(score_thr=0.0, max_per_img=5)
    for _, part in dicts(cfg.model.get('train_cfg'), 'train_cfg'):
        if part.get('type') == 'RandomSampler':
            part.num = 32
    preprocessor = cfg.model.data_preprocessor
    if detects:
        cfg.model.test_cfg.update(max_per_img=5, max_per_image=5)
    else:
        preprocessor['size'] = (HEIGHT, WIDTH)
    if name in SWAPPED:
        cfg.model.backbone.arch = dict(base=cfg.model.backbone.arch, depths=(1, 1, 1, 1))
        preprocessor.pop('batch_augments', None)
    if 'num_queries' in cfg.model:
        cfg.model.num_queries = 20  # there are not many more pixels
    if 'rtmdet' in name:  # its neck joins maps of whole strides
        preprocessor.pad_size_divisor = 32
    return cfg


@pytest.fixture(scope='module')
def prepared(request, coco_root, ade_root):
    """Model, config, a batch to train on and one to infer on."""
    cfg = small(request.param, coco_root, ade_root)
    __import__(f'{cfg.default_scope}.utils').utils.register_all_modules(False)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
        model.init_weights()
        batches = [
            next(iter(Runner.build_dataloader(cfg[f'{phase}_dataloader'], seed=0)))
            for phase in ('train', 'val')
        ]
        yield model, cfg, *batches


def stepped(cfg, model, data, dtype, steps=1):
    """Return losses, all finite like gradients and weights, and the names of unchanged weights."""
    model.train()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for _ in range(steps):
        with torch.autocast('cpu', dtype=dtype) if dtype != torch.float32 else nullcontext():
            loss, parts = model.parse_losses(model(**data, mode='loss'))
        assert all(torch.isfinite(value).all() for value in parts.values()), parts
        wrapper.zero_grad()
        loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        wrapper.step()
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    return parts, [name for name, p in model.named_parameters() if torch.equal(p, before[name])]


@pytest.mark.parametrize('prepared', CONFIGS, indirect=True)
@pytest.mark.parametrize(
    'dtype',
    [torch.float32, *(pytest.param(t, marks=slow) for t in (torch.bfloat16, torch.float16))],
)
def test_step(prepared, dtype):
    model, cfg, batch, _ = prepared
    preprocessor = cfg.model.data_preprocessor  # as the ImageNet weights expect their input
    assert preprocessor.bgr_to_rgb and preprocessor.mean == [123.675, 116.28, 103.53]
    report = Report()
    check_optimizer(cfg, model, report)
    assert not report.warnings
    _, unchanged = stepped(cfg, model, model.data_preprocessor(batch, True), dtype)
    assert len(unchanged) < 0.1 * len(list(model.parameters()))


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
        assert ('masks' in found) is ('mask' in Path(cfg.filename).stem)
        if 'masks' in found:
            assert found.masks.shape == (len(found), HEIGHT, WIDTH)
            assert found.masks.dtype == torch.bool


@slow
@pytest.mark.parametrize('name', SWAPPED)
def test_train_resume_and_evaluate(name, tmp_path, coco_root, ade_root):
    cfg, heads = small(name, coco_root, ade_root), []
    for _, part in dicts(cfg.model, ''):
        for key in ('num_classes', 'num_things_classes'):
            if part.get(key) == 80:
                part[key] = len(CLASSES)
                heads.append(part)
        if len(part.get('class_weight') or ()) == 81:
            part.class_weight = [1.0] * len(CLASSES) + [0.1]
    for phase in PHASES if heads else ():
        cfg[f'{phase}_dataloader'].dataset.metainfo = dict(classes=CLASSES)
    cfg.custom_hooks = []
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=4, val_interval=2)
    cfg.param_scheduler = []
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=2)
    config, work_dir = tmp_path / 'config.py', tmp_path / 'run'
    cfg.dump(config)
    places = [config, '--work-dir', work_dir]
    assert run_here('train', *places, '--cfg-options', 'train_cfg.max_iters=2') == 0
    assert run_here('train', *places, '--resume') == 0
    assert run_here('test', config, work_dir / 'iter_4.pth', *places[1:]) == 0
    assert (work_dir / 'iter_4.pth').is_file()
