"""Programs that look at networks, with the configs of classification."""

import json

import pytest

from mmrest.analysis.complexity import count_config
from mmrest.analysis.networks import on_meta
from mmrest.apis import inference
from mmrest.apis.onnx_export import exportable
from mmrest.engine.errors import UsageError
from mmrest.engine.tta import check_tta
from tests.classification.networks import config
from tests.tools.runs import ROOT, run_here


def test_multiply_adds_are_those_of_224_pixels(tmp_path):
    """As papers count them; with `--backbone-only` too."""
    path = ROOT / 'configs' / 'imagenet_rest_lite_300e.py'
    found = []
    for options in ([], ['--backbone-only']):
        assert not run_here('get_flops', path, '--json', tmp_path / 'x.json', *options)
        found.append(json.loads((tmp_path / 'x.json').read_text()))
    whole, alone = found
    assert whole['shape'] == alone['shape'] == [224, 224]
    counted = count_config(config('rest_lite'), 224, 224)
    assert (whole['parameters'], whole['macs']) == counted
    assert whole['macs'] - alone['macs'] == 512 * 1000


def test_inference_is_for_detectors_and_segmentors():
    message = (
        r'imagenet_rmt_t_300e\.py is the config of a classifier, .*; tools/test\.py --show-dir '
        'DIR draws what a classifier predicts$'
    )
    with pytest.raises(UsageError, match=message):
        inference(config('rmt_t'), 'absent.pth')


@pytest.mark.parametrize('name', ['rest_lite', 'rmt_t'])
def test_a_classifier_is_not_exported_as_a_whole(name):
    message = (
        'x.py is a ReleasedClassifier: .* are exported, not the heads of classifiers; '
        '--backbone-only exports its backbone'
    )
    with pytest.raises(UsageError, match=message):
        exportable(on_meta(config(name)), 'x.py')


def test_augmentation_names_what_classifiers_are_merged_by():
    message = r'needs tta_model and tta_pipeline in \S+; AverageClsScoreTTA of mmpretrain is a'
    with pytest.raises(UsageError, match=message):
        check_tta(config('rmt_t'))
