"""The eight classifiers against the released ones: sizes, names, numbers, and files."""

import pytest
import torch

from mmrest.checkpoint import CheckpointError
from mmrest.engine.building import check_model
from mmrest.engine.weights import InitWeightsHook, StrictWeightsHook
from mmrest.preflight import Report
from mmrest.preflight.weights import check_weights
from tests.classification.networks import NETWORKS, build, config, released, released_name
from tests.reference import CLASSIFICATION, KEYS, TOLERANCE, fill, image, samples

PARAMETERS = {
    'rest_lite': 10508300, 'rest_small': 13679708, 'rest_base': 30327052, 'rest_large': 51676156,
    'rmt_t': 14334216, 'rmt_s': 26967240, 'rmt_b': 54154896, 'rmt_l': 95464864,
}  # fmt: skip


@pytest.mark.parametrize('name', NETWORKS)
def test_parameters(name):
    model = build(config(name), 'meta')
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]
    assert all(parameter.requires_grad for parameter in model.parameters())


def shapes(entry):
    """Names and shapes of a released file."""
    absent = entry['not_in_classification_checkpoint']
    backbone = {n: shape for n, shape in KEYS[entry['name']].items() if n not in absent}
    return {**backbone, **entry['extra_keys']}


@pytest.mark.parametrize('entry', CLASSIFICATION, ids=lambda entry: entry['name'])
def test_names_and_shapes(entry):
    model = build(config(entry['name']), 'meta')
    assert sum(p.numel() for p in model.parameters()) == entry['parameters']
    found = {
        released_name(own): list(tensor.shape)
        for own, tensor in model.state_dict().items()
        if not own.endswith('num_batches_tracked')
    }
    assert found == shapes(entry)


@pytest.mark.parametrize(
    'entry', [e for e in CLASSIFICATION if 'logits' in e], ids=lambda entry: entry['name']
)
def test_logits(entry, tmp_path):
    """A file of released form gives the logits that the released code gives."""
    logits = entry['logits']
    tensors = fill(shapes(entry))
    if entry['name'].startswith('rmt'):
        tensors['layers.0.Relpos.decay'] = torch.zeros(4)
    torch.save({'model': tensors}, tmp_path / 'x.pth')
    model = build(config(entry['name'])).eval()
    model.load_pretrained(str(tmp_path / 'x.pth'))
    batch, _, height, width = logits['image']
    with torch.no_grad():
        found = model(image(batch, height, width, logits['seed']))
    tolerance = TOLERANCE[entry['name'].split('_')[0]] * logits['std']
    expected = torch.tensor(logits['samples'])
    torch.testing.assert_close(samples(found), expected, rtol=0, atol=tolerance)
    assert float(found.mean()) == pytest.approx(logits['mean'], abs=tolerance)
    assert float(found.std()) == pytest.approx(logits['std'], abs=tolerance)


@pytest.fixture(params=['rest_lite', 'rmt_t'])
def small(request, tmp_path):
    """Config of a small classifier, and a file of released form for it."""
    cfg = config(request.param, small=True)
    torch.manual_seed(1)
    content = released(build(cfg))
    torch.save(content, tmp_path / 'released.pth')
    return cfg, tmp_path / 'released.pth', content


def assert_loaded(model, content):
    for own, tensor in model.state_dict().items():
        assert torch.equal(tensor, content['model'][released_name(own)]), own


def test_a_released_file_is_loaded_whole(small, log):
    cfg, path, content = small
    cfg.model.init_cfg = dict(type='Pretrained', checkpoint=str(path))
    model = build(cfg)
    model.init_weights()
    assert_loaded(model, content)
    (line,) = [m for m in log.messages if 'tensors loaded' in m]
    count = sum('num_batches' not in name for name in model.state_dict())
    assert line.startswith(f'{count} of {count} tensors loaded')
    # Nothing is left over but what is derived.
    derived = type(model.backbone).__name__ == 'RMT'
    assert ('4 of the file ignored (backbone.layers.0.Relpos.angle' in line) is derived
    cfg.load_from, cfg.work_dir = None, '.'
    report = Report()
    check_weights(cfg, check_model(cfg), ('train',), report)
    assert [fact.found for fact in report.facts] == [line]


@pytest.mark.parametrize('hook', [StrictWeightsHook(), InitWeightsHook()])
def test_hooks_take_it_whole(small, hook):
    cfg, _, content = small
    model = build(cfg)
    fitted = hook.fitted(model, 'x.pth', content)
    assert fitted.whole and set(fitted.tensors) == set(model.state_dict())
    own = {'state_dict': model.state_dict()}  # and so are files of its own
    assert set(hook.fitted(model, 'x.pth', own).tensors) == set(model.state_dict())


def test_load_state_dict_takes_both_names(small):
    cfg, _, content = small
    model = build(cfg)
    missing, unexpected = model.load_state_dict(dict(content['model']), strict=True)
    assert not missing and not unexpected
    assert_loaded(model, content)
    model.load_state_dict(build(cfg).state_dict(), strict=True)


def test_files_that_do_not_fit(small, tmp_path):
    cfg, path, content = small
    model = build(cfg)
    content['model'].pop('head.bias')
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r'1 missing \(head\.fc\.bias\)'):
        model.load_pretrained(str(path))
    with pytest.raises(CheckpointError, match='pass the config that it was trained with'):
        StrictWeightsHook().fitted(model, 'x.pth', content)


def test_fine_tuning_keeps_a_new_head(small):
    cfg, _, content = small
    cfg.model.head.num_classes = 7
    model = build(cfg)
    fitted = InitWeightsHook().fitted(model, 'x.pth', content)
    assert not fitted.whole
    assert set(model.state_dict()) - set(fitted.tensors) == {'head.fc.weight', 'head.fc.bias'}


def test_the_backbone_begins_from_it(small):
    """As a detector's does: the classifier is left out."""
    cfg, path, content = small
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(path))
    model = build(cfg)
    model.init_weights()
    name = next(iter(model.backbone.state_dict()))
    assert torch.equal(model.backbone.state_dict()[name], content['model'][name])
    assert not torch.equal(model.head.fc.weight, content['model']['head.weight'])
