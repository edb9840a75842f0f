"""Detectors in ONNX: their custom ops, and agreement with mmdet's predictions."""

import importlib
import runpy
import sys

import cv2
import numpy as np
import pytest
import torch
from mmengine.utils import digit_version
from torch import nn

from mmrest.analysis.networks import build_network, network_config, preprocessing
from mmrest.export.comparison import agreement, export_checked, predicted
from mmrest.export.onnx import Normalise, exportable, facts
from tests.cli.test_demo import SMALL
from tests.runs import ROOT

if digit_version(torch.__version__) < digit_version('2.7'):
    pytest.skip('ONNX needs torch 2.7 or later', allow_module_level=True)
detectors = importlib.import_module('mmrest.export.detectors')

MASK = SMALL['demo_maskrcnn_rmt_t.py']
KINDS = {
    'retinanet': SMALL['demo_retinanet_rest_lite.py'],
    'faster': f"{MASK}\nmodel['roi_head'] = dict(mask_roi_extractor=None, mask_head=None)",
    'mask': MASK,
    'cascade': SMALL['demo_cascade_maskrcnn_rmt_t.py'],
}


def sharp(config, folder):
    """A detector of random weights whose scores are apart, its config, and its exported form."""
    path = folder / 'tiny.py'
    path.write_text(config)
    cfg = network_config(str(path))
    model = build_network(cfg)
    generator = torch.Generator().manual_seed(0)
    scale = dict(retina_cls=0.02, fc_cls=0.15, rpn_cls=0.15, conv_logits=0.15)
    scale.update(retina_reg=0.02, fc_reg=0.02, rpn_reg=0.02)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            *_, layer, kind = name.split('.')
            if layer in scale and kind == 'weight':
                parameter.normal_(0, scale[layer], generator=generator)
            if layer == 'retina_cls' and kind == 'bias':
                parameter.zero_()
    return cfg, exportable(model, 'tiny')


NMS = dict(type='nms', iou_threshold=0.5, class_agnostic=True)
AGNOSTIC = f"{MASK}\nmodel['test_cfg']['rcnn'].update(nms={NMS})"


@pytest.mark.parametrize('config', [*KINDS.values(), AGNOSTIC], ids=[*KINDS, 'agnostic'])
@pytest.mark.parametrize('size', [(33, 40), (7, 5)])
def test_predictions(tmp_path, config, size):
    """In PyTorch, batched predictions equal mmdet's for single images."""
    cfg, network = sharp(config, tmp_path)
    rng = np.random.default_rng(0)
    loaded = rng.integers(0, 256, (2, *size, 3), np.uint8)
    images = Normalise(preprocessing(cfg))(torch.from_numpy(loaded).permute(0, 3, 1, 2))
    with torch.no_grad():
        found = network(*network.pad(images))
    expected = predicted(network, loaded)
    agreed = agreement(network, expected, found, size, 1e-5)
    assert agreed.detections > 5 and agreed.unmatched == 0, agreed
    assert agreed.box < 1e-3 and agreed.mask == 1.0, agreed
    assert found[0].shape == (2, 20, 5) and found[1].shape == (2, 20)
    assert not found[0][found[1] < 0].any()


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
def test_export(tmp_path, kind, monkeypatch, session):
    """Exported detectors work at other sizes and batches, and with the documented script."""
    cfg, network = sharp(KINDS[kind], tmp_path)
    path = tmp_path / 'x.onnx'
    shapes = [(2, 64, 96), (1, 49, 121), (3, 200, 133)]
    found = export_checked(
        network, path, shapes, 1e-3, preprocessing(cfg), preprocess=True, size=(64, 96),
        metadata=facts(cfg, 'tiny', True, {}),
    )  # fmt: skip
    for difference in found.values():
        agreed = difference.agreement
        assert agreed.detections > 5 and agreed.unmatched == 0, difference
        assert agreed.score < 1e-3 and agreed.mask >= 0.99, difference
    exported = session(path)
    names = ['dets', 'labels', 'masks'][: 2 + network.with_masks]
    assert [output.name for output in exported.get_outputs()] == names
    assert exported.get_inputs()[0].shape == ['batch', 3, 'height', 'width']
    outputs = exported.run(None, {'images': np.zeros((4, 3, 1, 1), np.float32)})
    assert [len(output) for output in outputs] == [4] * len(outputs)
    photo, drawn = tmp_path / 'photo.png', tmp_path / 'drawn.png'
    shape = (395, 547, 3)  # its height at the size of the network is rounded up
    cv2.imwrite(str(photo), np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    monkeypatch.setattr(sys, 'argv', ['run_onnx.py', *map(str, (path, photo, drawn))])
    runpy.run_path(str(ROOT / 'docs' / 'assets' / 'run_onnx.py'))
    assert cv2.imread(str(drawn)).shape == shape


class Nms(nn.Module):
    def forward(self, boxes, scores):
        return detectors.nms(boxes, scores, 0.5, 4)


def test_nms(tmp_path, session):
    """In ONNX, each image with its own number of kept boxes."""
    generator = torch.Generator().manual_seed(0)

    def inputs(batch):
        corners = 10 * torch.rand(batch, 30, 2, generator=generator)
        sides = 1 + 10 * torch.rand(batch, 30, 2, generator=generator)
        scores = torch.rand(batch, 30, generator=generator)
        scores[0, 2:] = detectors.NOT_FOUND
        return torch.cat([corners, corners + sides], -1), scores

    given = inputs(2)
    free = ({0: torch.export.Dim.DYNAMIC},) * 2
    program = torch.onnx.export(
        torch.export.export(Nms(), given, dynamic_shapes=free, strict=False),
        dynamo=True, opset_version=18, custom_translation_table=detectors.translations(),
        input_names=['boxes', 'scores'], verbose=False,
    )  # fmt: skip
    program.save(tmp_path / 'x.onnx', external_data=False)
    exported = session(tmp_path / 'x.onnx')
    for boxes, scores in (given, inputs(3)):
        (found,) = exported.run(None, dict(boxes=boxes.numpy(), scores=scores.numpy()))
        assert np.array_equal(found, Nms()(boxes, scores))
