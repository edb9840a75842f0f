"""Other people's detectors and segmentors with a backbone of ours: configs/swapped."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope

from mmrest.engine.config import dicts, load_config, without_sync_bn
from tests.drawn import CLASSES, HEIGHT, WIDTH
from tests.runs import ROOT, run_here

NAMES = sorted(path.stem for path in (ROOT / 'configs' / 'swapped').glob('*.py'))


def small(name):
    """The config with one block per stage and few queries."""
    cfg = load_config(f'swapped/{name}')
    without_sync_bn(cfg)
    backbone = cfg.model.backbone
    backbone.arch = dict(base=backbone.arch, depths=(1, 1, 1, 1))
    if 'num_queries' in cfg.model:
        cfg.model.num_queries = 20  # there are not many more pixels
        cfg.model.test_cfg.max_per_img = 20
    cfg.model.data_preprocessor.pop('batch_augments', None)
    if cfg.default_scope == 'mmseg':
        cfg.model.data_preprocessor.size = (96, 96)
    return cfg


def inputs(cfg):
    if cfg.default_scope == 'mmdet':
        from mmdet.testing import demo_mm_inputs

        return demo_mm_inputs(
            2, [[3, 96, 64], [3, 80, 96]], num_classes=3, with_mask='mask2former' in cfg.filename
        )
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    labels = [PixelData(data=torch.randint(0, 150, (1, 96, 96))) for _ in range(2)]
    samples = [SegDataSample(gt_sem_seg=of_image) for of_image in labels]
    for sample in samples:
        sample.set_metainfo(dict(img_shape=(96, 96), ori_shape=(96, 96)))
    return dict(inputs=list(torch.randint(0, 256, (2, 3, 96, 96))), data_samples=samples)


@pytest.mark.parametrize(
    'name',
    [
        # The longest two; their runs are slow tests, too.
        pytest.param(n, marks=pytest.mark.slow if 'semantic' in n or 'dino' in n else ())
        for n in NAMES
    ],
)
def test_a_step_and_a_prediction(name):
    cfg = small(name)
    __import__(f'{cfg.default_scope}.utils').utils.register_all_modules(False)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model).train()
        model.init_weights()
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
        batch = inputs(cfg)
        data = model.data_preprocessor(batch, True)
        total, _ = model.parse_losses(model(**data, mode='loss'))
        optimizer.backward(total)
        last = [p.grad for p in model.backbone.blocks(3).parameters()]
        assert all(grad.isfinite().all() for grad in last) and any(grad.any() for grad in last)
        optimizer.step()
        model.eval()
        with torch.no_grad():
            found = model.test_step(inputs(cfg))
    assert total.isfinite() and len(found) == 2


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_train_resume_and_evaluate(name, tmp_path, coco_root, ade_root):
    cfg = small(name)
    detects = cfg.default_scope == 'mmdet'
    root = coco_root if detects else ade_root
    masks = 'mask2former_instance' in name
    heads = []
    for _, part in dicts(cfg.model, ''):
        for key in ('num_classes', 'num_things_classes'):
            if part.get(key) == 80:
                part[key] = len(CLASSES)
                heads.append(part)
        if len(part.get('class_weight') or ()) == 81:
            part.class_weight = [1.0] * len(CLASSES) + [0.1]
    if name == 'rtmdet_rmt_s':  # its neck joins maps of whole strides
        cfg.model.data_preprocessor.pad_size_divisor = 32
    packed = 'PackDetInputs' if detects else 'PackSegInputs'
    read = dict(type='LoadAnnotations')
    read.update(dict(with_bbox=True, with_mask=masks) if detects else dict(reduce_zero_label=True))
    for phase in ('train', 'val', 'test'):
        loader = cfg[f'{phase}_dataloader']
        loader.update(num_workers=0, persistent_workers=False, batch_size=2)
        loader.dataset.update(data_root=str(root), indices=4)
        if heads:
            loader.dataset.metainfo = dict(classes=CLASSES)
        loader.dataset.pipeline = [
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(WIDTH, HEIGHT), keep_ratio=True),
            dict(type=packed),
        ]
        loader.dataset.pipeline.insert(1 if phase == 'train' else 2, read)
        if detects and phase != 'train':
            cfg[f'{phase}_evaluator'].ann_file = str(
                root / 'annotations' / 'instances_val2017.json'
            )
    cfg.custom_hooks = []
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=4, val_interval=2)
    cfg.param_scheduler = []
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=2)
    cfg.dump(tmp_path / f'{name}.py')
    places = [tmp_path / f'{name}.py', '--work-dir', tmp_path / 'run']
    assert run_here('train', *places, '--cfg-options', 'train_cfg.max_iters=2') == 0
    assert run_here('train', *places, '--resume') == 0
    assert run_here('test', places[0], tmp_path / 'run' / 'iter_4.pth', *places[1:]) == 0
    assert (tmp_path / 'run' / 'iter_4.pth').is_file()
