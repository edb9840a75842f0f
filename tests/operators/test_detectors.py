"""mmdet's detectors with torchvision's ops and our backbones."""

import pytest
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.hub import get_config
from mmengine.registry import MODELS, DefaultScope

ARCH = dict(dims=(16, 32, 48, 64), depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4))

# Config -> stages that it takes; tests/configs/test_steps.py trains others.
DETECTORS = {
    'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco': 4,
    'deformable_detr/deformable-detr_r50_16xb2-50e_coco': 3,
}


@pytest.mark.parametrize('name', DETECTORS)
def test_a_step_of_training(name):
    register_all_modules(False)
    stages = DETECTORS[name]
    model = get_config(f'mmdet::{name}.py').model
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
