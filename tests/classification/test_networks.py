"""Classifiers with official weights: their logits, and which files load how."""

import re

import pytest
import torch
from mmengine.runner import load_checkpoint

from mmrest.checkpoint import CheckpointError
from mmrest.engine.building import check_model
from mmrest.engine.weight_hooks import InitWeightsHook, StrictWeightsHook
from mmrest.preflight import Report
from mmrest.preflight.resources import check_weights
from tests.classification.networks import (
    build,
    config,
    released,
    released_name,
    small_token_labelling,
)
from tests.reference import CLASSIFICATION, assert_official, classifier_shapes, fill, image


@pytest.mark.parametrize('name', [n for n, entry in CLASSIFICATION.items() if 'logits' in entry])
def test_logits(name, tmp_path):
    """Official weights give the logits of the official code."""
    logits = CLASSIFICATION[name]['logits']
    of_backbone, others = classifier_shapes(name)
    tensors = fill({**of_backbone, **others})
    if name.startswith('rmt'):
        tensors['layers.0.Relpos.decay'] = torch.zeros(4)
    torch.save({'model': tensors}, tmp_path / 'x.pth')
    model = build(config(name)).eval()
    model.load_pretrained(str(tmp_path / 'x.pth'))
    batch, _, height, width = logits['image']
    with torch.no_grad():
        found = model(image(batch, height, width, logits['seed']))
    assert_official(found, logits, name.split('_')[0])


@pytest.fixture(params=['rest_lite', 'rmt_t', 'token labelling'])
def small(request, tmp_path):
    """Config of a small classifier, and an official file for it."""
    labels_tokens = request.param == 'token labelling'
    cfg = small_token_labelling()[0] if labels_tokens else config(request.param, small=True)
    torch.manual_seed(1)
    content = released(build(cfg))
    torch.save(content, tmp_path / 'released.pth')
    return cfg, tmp_path / 'released.pth', content


def assert_loaded(model, content):
    for own, tensor in model.state_dict().items():
        assert torch.equal(tensor, content['model'][released_name(own)]), own


@pytest.mark.parametrize('kind', ['Pretrained', 'PretrainedInit'])
def test_an_official_file_is_loaded_completely(small, kind, log):
    """After the initialisation of the parts."""
    cfg, path, content = small
    constant = dict(type='Constant', layer='Linear', val=7.0)
    cfg.model.init_cfg = [dict(type=kind, checkpoint=str(path)), constant]
    model = build(cfg)
    model.init_weights()
    assert_loaded(model, content)
    (line,) = [m for m in log.messages if 'tensors loaded' in m]
    count = sum('num_batches' not in name for name in model.state_dict())
    assert line.startswith(f'{count} of {count} tensors loaded')
    # Only derived tensors are ignored.
    derived = type(model.backbone).__name__ == 'RMT'
    assert (
        '4 of the file are not in the network and ignored (backbone.layers.0.Relpos.angle' in line
    ) is derived
    cfg.load_from, cfg.work_dir = None, '.'
    report = Report()
    check_weights(cfg, check_model(cfg), ('train',), report)
    assert [fact.found for fact in report.facts] == [line]


def test_both_names_are_loaded(small):
    """The hooks of a run and load_state_dict accept both."""
    cfg, path, content = small
    model = build(cfg)
    names = set(model.state_dict())
    for hook in (StrictWeightsHook(), InitWeightsHook()):
        fitted = hook.fitted(model, 'x.pth', content)
        assert fitted.complete and set(fitted.tensors) == names
        own = {'state_dict': model.state_dict()}
        assert set(hook.fitted(model, 'x.pth', own).tensors) == names
    missing, unexpected = model.load_state_dict(dict(content['model']), strict=True)
    assert not missing and not unexpected
    assert_loaded(model, content)
    model.load_state_dict(build(cfg).state_dict(), strict=True)
    load_checkpoint(model, str(path))  # as mmpretrain's own tools and inferencers do
    assert_loaded(model, content)


def test_mismatched_files(small):
    cfg, path, content = small
    model = build(cfg)
    tensors = content['model'].items()
    deeper = {re.sub(r'(stage1|blocks)\.0\.', r'\1.9.', name): tensor for name, tensor in tensors}
    torch.save({'model': {**content['model'], **deeper}}, path)
    with pytest.raises(CheckpointError, match='belong to layers that the model does not have'):
        model.load_pretrained(str(path))
    content['model'].pop('head.bias')
    torch.save(content, path)
    before = model.head.fc.weight.clone()
    with pytest.raises(CheckpointError, match=r'1 missing \(head\.fc\.bias\)'):
        model.load_pretrained(str(path))
    assert torch.equal(model.head.fc.weight, before)
    with pytest.raises(CheckpointError, match='pass the config that it was trained with'):
        StrictWeightsHook().fitted(model, 'x.pth', content)


def test_fine_tuning_keeps_a_new_head(small):
    cfg, _, content = small
    cfg.model.head.num_classes = 7
    model = build(cfg)
    fitted = InitWeightsHook().fitted(model, 'x.pth', content)
    assert not fitted.complete
    of_head = {name for name in model.state_dict() if name.startswith('head.')}
    assert set(model.state_dict()) - set(fitted.tensors) == of_head
