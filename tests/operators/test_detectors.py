"""mmdet's detectors with torchvision's ops and our backbones."""

import contextlib
import importlib.metadata
import io
from pathlib import Path

import pytest
import torch
from mmengine import Config
from mmengine.registry import MODELS, DefaultScope

MMDET = Path(importlib.metadata.distribution('mmdet').locate_file('mmdet'), '.mim', 'configs')
ARCH = dict(dims=(16, 32, 48, 64), depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4))

# Config -> stages that it takes; tests/configs/test_steps.py trains others.
DETECTORS = {
    'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco': 4,
    'deformable_detr/deformable-detr_r50_16xb2-50e_coco': 3,
}


@pytest.mark.parametrize('name', DETECTORS)
def test_a_step_of_training(name):
    from mmdet.testing import demo_mm_inputs
    from mmdet.utils import register_all_modules

    register_all_modules(False)
    stages = DETECTORS[name]
    model = Config.fromfile(MMDET / f'{name}.py').model
    model.backbone = dict(type='ResT', arch=ARCH, out_indices=tuple(range(4 - stages, 4)))
    model.data_preprocessor.pop('batch_augments', None)
    if 'num_queries' in model:
        model.num_queries = 20  # there are not many more pixels
    model.neck.in_channels = list(ARCH['dims'][4 - stages :])
    with DefaultScope.overwrite_default_scope('mmdet'):
        detector = MODELS.build(model).train()
        detector.init_weights()
        batch = demo_mm_inputs(2, [[3, 96, 64], [3, 80, 96]], num_classes=3)
        data = detector.data_preprocessor(batch, True)
        losses = detector(**data, mode='loss')
        total, _ = detector.parse_losses(losses)
        total.backward()
    gradient = detector.backbone.stage4[0].attn.q.weight.grad
    assert total.isfinite() and gradient.isfinite().all() and gradient.abs().max() > 0


def build(path):
    cfg = Config.fromfile(path)
    with contextlib.redirect_stdout(io.StringIO()), torch.device('meta'):
        MODELS.build(cfg.model)


# What else a config asks for that is not installed, or what mmdet 3.3.0 itself does not build.
EXCUSES = (
    'cannot be called on meta tensors', 'process group', 'is not installed, ', 'does not exist',
    'No such file', 'Detectron2', 'timm', 'urlopen', 'fairscale', "argument: 'num_classes'",
)  # fmt: skip


@pytest.mark.slow
def test_every_config_of_mmdet_builds():
    from mmdet.utils import register_all_modules

    register_all_modules(False)
    paths = [
        path
        for path in MMDET.glob('*/*.py')
        # Parts of configs, without a model.
        if path.parent.name not in ('_base_', 'common') and not path.stem.endswith('_tta')
    ]
    failed, built = {}, 0
    with DefaultScope.overwrite_default_scope('mmdet'):
        for path in paths:
            try:
                build(path)
                built += 1
            except Exception as error:
                if not any(excuse in str(error) for excuse in EXCUSES):
                    failed[path.name] = error
    assert not failed, failed
    assert built > 600
