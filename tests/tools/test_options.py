"""Options of the programs that change a config."""

import runpy

import pytest
from mmengine.config import Config

from tests.tools.runs import ROOT


@pytest.mark.parametrize('several', [False, True])
def test_out_of_a_segmentor_is_kept(several):
    keep_predictions = runpy.run_path(str(ROOT / 'tools' / 'test.py'))['keep_predictions']
    metric = dict(type='CityscapesMetric')
    cfg = Config(dict(default_scope='mmseg', test_evaluator=[metric] if several else metric))
    keep_predictions(cfg, 'maps')
    evaluator = cfg.test_evaluator[0] if several else cfg.test_evaluator
    assert evaluator == dict(type='CityscapesMetric', output_dir='maps', keep_results=True)


def test_auto_scale_lr():
    program = runpy.run_path(str(ROOT / 'tools' / 'train.py'))
    cfg = Config(dict(auto_scale_lr=dict(base_batch_size=16, enable=False)))
    program['use_auto_scale_lr'](cfg)
    assert cfg.auto_scale_lr.enable
    for without in (dict(auto_scale_lr=None), dict()):
        with pytest.raises(program['UsageError'], match=r'needs auto_scale_lr\.base_batch_size'):
            program['use_auto_scale_lr'](Config(without))
