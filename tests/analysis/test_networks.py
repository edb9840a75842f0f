"""Networks by name or config: which are backbones, and at which size they are compared."""

import pytest
from mmengine.config import Config

from mmrest import RMT
from mmrest.analysis.networks import backbone_config, is_backbone, network_config, usual_size
from mmrest.errors import UsageError


@pytest.mark.parametrize('model, scope', [
    (dict(type='ResT'), None),
    (dict(type=RMT), 'mmdet'),
    (dict(type='mmrest.RMT'), 'mmseg'),
    (dict(type='ResNet'), 'mmdet'),
    (dict(type='mmdet.ResNet'), None),
])  # fmt: skip
def test_config_of_a_backbone(model, scope):
    """A backbone is recognised by its type, in the scope of its config."""
    cfg = Config(dict(model=model, default_scope=scope), 'model = ...', 'x.py')
    assert is_backbone(cfg) and backbone_config(cfg) is cfg and usual_size(cfg) == (224, 224)


@pytest.mark.parametrize('kind', ['MaskRCNN', 'SoftTeacher', 'absent'])
def test_other_models(kind):
    cfg = Config(dict(model=dict(type=kind), default_scope='mmdet'), 'model = ...', 'x.py')
    assert not is_backbone(cfg) and usual_size(cfg) == (800, 1280)
    with pytest.raises(UsageError, match=r'x\.py has no backbone; drop --backbone-only'):
        backbone_config(cfg)


def test_names():
    assert is_backbone(network_config('swin_t', {'model.depths': (1, 1, 1, 1)}))
    assert network_config('maskrcnn_rmt_s_1x').model.type == 'MaskRCNN'
