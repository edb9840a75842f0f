"""mmdet's modules in float32 under automatic mixed precision."""

import copy

import pytest
import torch
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData

import mmrest  # noqa: F401, registers

LAYER = dict(type='RoIAlign', output_size=7, sampling_ratio=0)
ARGS = dict(roi_layer=LAYER, out_channels=4, featmap_strides=[4, 8], finest_scale=14)


@pytest.fixture(autouse=True)
def _in_mmdet():
    register_all_modules(False)
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_regions(dtype):
    """They equal those of mmdet in float32; also of a copy, such as EMA weights."""
    maps = [torch.randn(2, 4, *size).to(dtype).requires_grad_() for size in ((16, 24), (8, 12))]
    rois = torch.tensor([[0, 3.0, 5, 41, 33], [1, 0, 0, 95, 60], [1, 10, 10, 12, 30]])
    extractor = MODELS.build(dict(type='Float32RoIExtractor', **ARGS))
    assert isinstance(extractor, SingleRoIExtractor)
    with torch.autocast('cpu', dtype=torch.bfloat16, enabled=dtype != torch.float32):
        out = copy.deepcopy(extractor)(maps, rois)
    assert out.dtype == torch.float32
    exact = SingleRoIExtractor(**ARGS)([x.detach().float() for x in maps], rois)
    assert torch.equal(out, exact)
    out.sum().backward()
    assert all(x.grad.dtype == dtype and x.grad.abs().sum() > 0 for x in maps)


@pytest.mark.parametrize('options', [
    dict(of='RPNHead', num_classes=1), dict(of='RetinaHead', num_classes=2, stacked_convs=1),
])  # fmt: skip
def test_boxes_in_a_wide_image(options):
    """Anchors at the right edge of 1333 pixels, where bfloat16 has multiples of 8."""
    generator = dict(type='AnchorGenerator', scales=[1.7], ratios=[1.0], strides=[8])
    coder = dict(type='DeltaXYWHBBoxCoder')
    options.update(in_channels=4, feat_channels=4, anchor_generator=generator, bbox_coder=coder)
    head = MODELS.build(dict(type='Float32Head', **options))
    nms = dict(type='nms', iou_threshold=0.9)
    cfg = ConfigDict(nms_pre=100, max_per_img=100, min_bbox_size=0, score_thr=0.0, nms=nms)
    with torch.no_grad(), torch.autocast('cpu', dtype=torch.bfloat16):
        scores, deltas = head((torch.zeros(1, 4, 1, 166),))
        assert scores[0].dtype == deltas[0].dtype == torch.float32
        deltas[0].zero_()
        meta = dict(img_shape=(8, 1333), scale_factor=(1.0, 1.0))
        (found,) = head.predict_by_feat(scores, deltas, batch_img_metas=[meta], cfg=cfg)
    assert isinstance(found, InstanceData) and found.bboxes.dtype == torch.float32
    centres = (found.bboxes[:, 0] + found.bboxes[:, 2]) / 2
    inside = centres[(found.bboxes[:, 0] > 0) & (found.bboxes[:, 2] < 1333)]
    assert len(inside) > 20 and torch.allclose(inside % 8, torch.zeros(()), atol=1e-3)
