"""Networks by name or config: which are backbones, and which images they expect."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, TRANSFORMS, DefaultScope

from mmrest import RMT
from mmrest.analysis.networks import (
    backbone_config,
    is_backbone,
    network_config,
    on_meta,
    preprocessing,
    usual_size,
)
from mmrest.errors import UsageError
from mmrest.export.onnx import Normalise


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


def test_a_preprocessor_is_no_part_of_a_backbone():
    network = dict(model=dict(type='ResT'), data_preprocessor=dict(mean=[1.0]))
    assert next(on_meta(Config(network)).parameters()).is_meta


@pytest.mark.parametrize('kind', ['MaskRCNN', 'SoftTeacher', 'absent'])
def test_other_models(kind):
    cfg = Config(dict(model=dict(type=kind), default_scope='mmdet'), 'model = ...', 'x.py')
    assert not is_backbone(cfg) and usual_size(cfg) == (800, 1280)
    with pytest.raises(UsageError, match=r'x\.py has no backbone; use another network, or drop'):
        backbone_config(cfg)


NORMALIZE = dict(type='Normalize', mean=[110, 120, 130], std=[50, 60, 70])
IN_PIPELINE = {
    'model.data_preprocessor': dict(mean=None, std=None, bgr_to_rgb=False),
    'test_dataloader.dataset.pipeline': [NORMALIZE],
}
NOWHERE = {'model.data_preprocessor': dict(_delete_=True, type='SegDataPreProcessor')}


@pytest.mark.parametrize('name, options', [
    ('maskrcnn_rmt_t_1x', {}), ('semfpn_rest_lite_80k', {}), ('imagenet_rest_small_300e', {}),
    ('maskrcnn_rmt_t_1x', {'model.data_preprocessor.bgr_to_rgb': False}),
    ('maskrcnn_rmt_t_1x', IN_PIPELINE), ('semfpn_rest_lite_80k', NOWHERE),
])  # fmt: skip
def test_preprocessing(name, options):
    """That of the data preprocessors of mmdet, mmseg and mmpretrain, or of the pipeline."""
    cfg = network_config(name, options)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    read = image[..., ::-1]  # BGR
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        if options is IN_PIPELINE:
            step = TRANSFORMS.build(cfg.test_dataloader.dataset.pipeline[0])
            read = step(dict(img=read.copy()))['img']
        fields = cfg.model.get('data_preprocessor') or cfg.data_preprocessor
        preprocessor = MODELS.build(dict(dict(type='ClsDataPreprocessor'), **fields))
    given = torch.from_numpy(read.copy()).permute(2, 0, 1)
    expected = preprocessor(dict(inputs=[given], data_samples=None))['inputs']
    given = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)[None]
    torch.testing.assert_close(Normalise(preprocessing(cfg))(given), expected)
