"""The weights of a run are checked before it starts; see also tests/cli/test_bad_input.py."""

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmrest import ResT
from mmrest.checkpoint import CheckpointError
from mmrest.preflight import Report
from mmrest.preflight.resources import check_weights
from tests.engine.test_weight_hooks import Detector
from tests.models.networks import tiny


def built(init_cfg=None):
    with torch.device('meta'):
        return Detector(init_cfg=init_cfg)


def facts(model, phases=('train', 'val'), **options):
    report = Report()
    check_weights(Config(options), model, phases, report)
    return report.facts


def test_pretrained(tmp_path):
    torch.save(tiny(ResT).state_dict(), tmp_path / 'x.pth')
    model = built(dict(type='Pretrained', checkpoint=str(tmp_path / 'x.pth')))
    (fact,) = facts(model)
    assert fact.what == 'pretrained weights of backbone'
    assert ' tensors loaded from ' in fact.found
    assert facts(model, ('test',)) == []  # which does not read it


def test_remote_weights_are_not_checked():
    model = built(dict(type='Pretrained', checkpoint='https://localhost/x.pth'))
    first, second = facts(model, load_from='open-mmlab://resnet50')
    assert 'not checked' in first.found and 'not checked' in second.found


@pytest.mark.parametrize('name', ['torchvision://resnet50', 'open-mmlab://x', 'mmcls:x'])
def test_model_zoos_have_no_weights_of_our_backbones(name):
    model = built(dict(type='Pretrained', checkpoint=name))
    with pytest.raises(CheckpointError, match=f'{name}: this model zoo has no weights of ResT'):
        facts(model)
    model.init_cfg, model.backbone.init_cfg = model.backbone.init_cfg, None  # of a foreign one
    (fact,) = facts(model)
    assert 'not checked' in fact.found


def test_a_backbone_of_another_project(tmp_path):
    model = nn.ModuleDict(dict(backbone=nn.Linear(2, 3)))
    model['backbone'].init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'x.pth'))
    torch.save({'weight': torch.ones(3, 2)}, tmp_path / 'x.pth')
    (fact,) = facts(model)
    assert fact.found.startswith('1 of 2 tensors loaded')
    torch.save({'weight': torch.ones(2, 3)}, tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match='0 of its 1 tensors have a matching name and shape'):
        facts(model)


def test_load_from(tmp_path):
    path = str(tmp_path / 'x.pth')
    model = built()
    state = Detector().state_dict()
    torch.save({'state_dict': {n: t for n, t in state.items() if n != 'head.bias'}}, path)
    (fact,) = facts(model, load_from=path)
    assert '1 are not in the file and keep their initial values (head.bias)' in fact.found
    torch.save({'meta': {'epoch': 1}, 'state_dict': state}, path)
    for phases, options in ((('test',), {}), (('train',), dict(resume=True))):
        (fact,) = facts(model, phases, load_from=path, **options)
        assert 'loaded from' in fact.found
