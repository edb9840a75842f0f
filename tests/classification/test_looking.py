"""Scripts that inspect networks, with the configs of classification, and visualizations."""

import json

import numpy as np
import pytest
import torch
from mmpretrain.structures import DataSample
from mmpretrain.visualization import UniversalVisualizer

from mmrest.analysis.complexity import count
from mmrest.analysis.networks import on_meta
from mmrest.apis import inference
from mmrest.classification import ClassVisualizationHook
from mmrest.engine.config import check_tta
from mmrest.errors import UsageError
from mmrest.export.onnx import exportable
from tests.classification.networks import config
from tests.runs import ROOT, run_here


def test_macs_are_those_of_224_pixels(tmp_path):
    """MACs match the papers, also with `--backbone-only`."""
    path = ROOT / 'configs' / 'imagenet_rest_lite_300e.py'
    found = []
    for options in ([], ['--backbone-only']):
        assert not run_here('get_flops', path, '--json', tmp_path / 'x.json', *options)
        found.append(json.loads((tmp_path / 'x.json').read_text()))
    whole, alone = found
    assert whole['shape'] == alone['shape'] == [224, 224]
    counted = count(on_meta(config('rest_lite')), 224, 224)
    assert (whole['parameters'], whole['macs']) == counted
    assert whole['macs'] - alone['macs'] == 512 * 1000


@pytest.mark.parametrize('use, message', [
    (lambda: inference(config('rmt_t'), 'absent.pth'), r'imagenet_rmt_t_300e\.py is the config of '
        r'a classifier, .* ImageClassificationInferencer .*, or mmrest test --show-dir DIR$'),
    (lambda: exportable(on_meta(config('rest_lite')), 'x.py'), 'x.py defines a ReleasedClassifier'
        ', not a backbone, segmentor with one head or detector; pass --backbone-only to export'),
    (lambda: check_tta(config('rmt_t')),
        r'needs tta_model and tta_pipeline in \S+; for classifiers, tta_model is Ave'),
], ids=['inference', 'export', 'augmentation'])  # fmt: skip
def test_what_is_not_for_classifiers(use, message):
    with pytest.raises(UsageError, match=message):
        use()


def test_the_first_of_several_views_is_drawn(monkeypatch):
    visualizer = UniversalVisualizer.get_instance('views')
    drawn = []
    monkeypatch.setattr(visualizer, 'visualize_cls', lambda image, **_: drawn.append(image))
    hook = ClassVisualizationHook(enable=True, interval=1)
    views = [tuple(torch.full((3, 4, 5), 10.0 * view + n) for n in range(2)) for view in range(3)]
    views[0][1][0] = 99  # blue
    samples = [DataSample(), DataSample()]
    hook._draw_samples(0, dict(inputs=views), samples)
    hook._draw_samples(0, dict(inputs=list(views[0])), samples)
    assert len(drawn) == 4
    for image, other in zip(drawn[:2], drawn[2:]):
        np.testing.assert_array_equal(image, other)
    np.testing.assert_array_equal(drawn[1][0, 0], [1, 1, 99])  # red, green, blue
