"""ONNX files of segmentors at any size, normalisation in the file, and its metadata."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from mmcv.transforms import Resize
from mmdet.datasets import CocoDataset
from mmseg.models.utils import Upsample as OfMmseg
from torch import nn

from mmrest.analysis.networks import Preprocessing, build_network, network_config
from mmrest.errors import UsageError
from mmrest.export.comparison import Agreement, Difference, _largest_difference, export_checked
from mmrest.export.onnx import adaptive_avg_pool, check_packages, exportable, facts, with_any_size
from tests.runs import ROOT, SEGMENTOR
from tests.torch_versions import needs_onnx


@pytest.mark.parametrize('bins', [(1, 1), (2, 2), (3, 3), (6, 6), (2, 5)])
@pytest.mark.parametrize('size', [(1, 1), (4, 7), (11, 17), (24, 30)])
def test_pooling(bins, size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(adaptive_avg_pool(bins, x), F.adaptive_avg_pool2d(x, bins))


def test_segmentor(tmp_path, monkeypatch):
    """Its logits equal mmseg's own."""
    (tmp_path / 'tiny.py').write_text(SEGMENTOR)
    model = build_network(network_config(str(tmp_path / 'tiny.py')))
    images = torch.randn(2, 3, 49, 81)
    network = exportable(model, 'tiny.py')
    metas = [dict(img_shape=(49, 81), ori_shape=(49, 81), padding_size=[0, 0, 0, 0])] * 2
    with torch.no_grad():
        logits = model.encode_decode(images, metas)
        torch.testing.assert_close(network(images), logits)
        head = network.model.decode_head
        monkeypatch.setattr(head, 'forward', lambda maps: (type(head).forward(head, maps), None))
        torch.testing.assert_close(network(images), logits)  # as with EncHead
    model.test_cfg.mode = 'slide'
    with pytest.raises(UsageError, match=r'tiny\.py tests in sliding windows, which export does'):
        exportable(model, 'tiny.py')
    model.test_cfg = None
    exportable(model, 'tiny.py')


class Head(nn.Module):
    """Adaptive pooling and upsampling, as in the heads of mmseg."""

    def __init__(self):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d((2, 3))
        self.up = OfMmseg(scale_factor=2, mode='bilinear', align_corners=False)
        self.out_indices = (0,)

    def forward(self, x):
        pooled = F.interpolate(self.pool(x), x.shape[2:], mode='bilinear')
        return F.interpolate(self.up(x + pooled), x.shape[2:], mode='bilinear')


SHAPES = [(2, 16, 24), (1, 13, 31)]
OPTIONS = dict(normalisation=Preprocessing(), size=(16, 24))


@needs_onnx
@pytest.mark.parametrize('preprocess', [False, True])
def test_any_size(tmp_path, session, preprocess):
    """With modules of fixed size replaced."""
    path = tmp_path / 'new' / 'head.onnx'
    network = with_any_size(Head())
    options = dict(OPTIONS, preprocess=preprocess, metadata=dict(a='b'))
    found = export_checked(network, path, SHAPES, 1e-4, **options)
    assert list(found) == SHAPES and all(each.onnx < 1e-4 for each in found.values())
    exported = session(path)
    assert exported.get_inputs()[0].shape == ['batch', 3, 'height', 'width']
    assert exported.get_modelmeta().custom_metadata_map['a'] == 'b'


@needs_onnx
def test_a_file_that_differs_is_not_kept(tmp_path, monkeypatch):
    """As with modules of fixed size."""
    path = tmp_path / 'new' / 'head.onnx'
    with pytest.raises(UsageError, match=r'differs by|cannot be exported|onnxruntime fails on'):
        export_checked(Head(), path, SHAPES, 1e-4, **OPTIONS)
    monkeypatch.setattr(Difference, 'fault', lambda *_: '1')
    with pytest.raises(UsageError, match=r'by 1; \S+ is not writ'):
        export_checked(with_any_size(Head()), path, SHAPES, 1e-4, **OPTIONS)
    assert not [found for found in tmp_path.rglob('*') if found.is_file()]


@pytest.mark.parametrize('difference, fits', [
    (Difference(2e-3, 0.0), False),
    (Difference(2e-3, 1e-3), True),
    (Difference(5e-4, 0.0), True),
    (Difference(float('nan'), 0.0), False),
    (Difference(0.0, 0.0, Agreement(detections=200, unmatched=1)), True),
    (Difference(0.0, 0.0, Agreement(detections=20, unmatched=1)), False),
    (Difference(0.0, 0.0, Agreement(detections=20, mask=0.9)), False),
])  # fmt: skip
def test_tolerance(difference, fits):
    assert (difference.fault(1e-3) is None) is fits


@pytest.mark.parametrize('order', [1, -1])
def test_outputs_that_are_not_numbers(order):
    found = [torch.ones(3), torch.full((3,), math.nan)][::order]
    assert math.isnan(_largest_difference(found, [torch.arange(3.0)] * 2))
    assert _largest_difference([torch.zeros(1)], [torch.zeros(1)]) == 0


def test_missing_packages(monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: 'onnx' not in name or None)
    with pytest.raises(UsageError, match=r'pip install onnx onnxruntime$'):
        check_packages(['onnx', 'torch', 'onnxruntime'])


def test_old_torch(monkeypatch):
    monkeypatch.setattr(torch, '__version__', '2.6.0+cpu')
    with pytest.raises(UsageError, match=r'needs torch 2\.7 or later, got 2\.6\.0\+cpu'):
        check_packages([])


def test_facts():
    """Metadata of configs with classes in the config or the dataset, and of a name."""
    cfg = network_config(str(ROOT / 'configs' / 'demo_semfpn_rest_lite.py'))
    found = facts(cfg, 'demo', trained={})
    assert json.loads(found['mean']) == [123.675, 116.28, 103.53]
    assert found['channel_order'] == 'RGB' and found['network'] == 'demo'
    assert json.loads(found['classes']) == ['background', 'square', 'disc', 'triangle']
    cfg.model.decode_head.out_channels = 1
    assert facts(cfg, 'demo', trained={}) == dict(found, sigmoid_threshold='0.3')
    cfg.model.decode_head.update(out_channels=None, num_classes=1)
    with pytest.raises(UsageError, match='num_classes is 1, but checkpoint and config name 4'):
        facts(cfg, 'demo', trained={})
    trained = facts(cfg, 'demo', trained=dict(classes=('road',)))
    assert json.loads(trained['classes']) == ['road'] and 'sigmoid_threshold' in trained
    named = facts(network_config('rmt_t'), 'rmt_t')
    assert named.keys() == found.keys() - {'classes', 'resize'}
    assert all(isinstance(value, str) for value in found.values())
    cfg = network_config(str(ROOT / 'configs' / 'maskrcnn_rmt_s_3x.py'))
    coco = facts(cfg, 'x', True, {})
    assert len(json.loads(coco['classes'])) == 80 and coco['channel_order'] == 'BGR'
    assert json.loads(coco['resize']) == dict(scale=[1333, 800], keep_ratio=True)
    assert json.loads(coco['score_threshold']) == 0.05
    dataset = cfg.test_dataloader.dataset
    dataset.type, dataset.pipeline[1].type = CocoDataset, Resize  # classes in place of names
    assert 'resize' in coco and facts(cfg, 'x', True, {}) == coco
    assert 'classes' not in facts(cfg, 'x')
