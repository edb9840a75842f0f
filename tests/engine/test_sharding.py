"""Configs of sharded runs, and what of a backbone is sharded together."""

import pytest
from mmengine.config import Config

from mmrest import RMT, ResT
from mmrest.engine import processes, sharding
from mmrest.engine.config import load_config
from mmrest.engine.errors import UsageError
from tests.models.networks import tiny
from tests.tools.runs import ROOT


def sharded():
    cfg = load_config(str(ROOT / 'configs' / 'maskrcnn_rmt_l_3x_fsdp.py'))
    cfg.launcher = 'pytorch'
    return cfg


def test_sharded_config():
    cfg, plain = sharded(), load_config(str(ROOT / 'configs' / 'maskrcnn_rmt_l_3x.py'))
    assert {key for key in cfg if cfg[key] != plain.get(key)} == {
        'launcher',
        'runner_type',
        'strategy',
    }
    sharding.check_sharding(cfg)
    processes.use_cpu_wrapper(cfg)
    assert cfg.strategy.model_wrapper.device_id == 'cpu'
    assert cfg.strategy.state_dict_cfg.state_dict_config.offload_to_cpu is False
    assert Config.fromstring(cfg.pretty_text, '.py').strategy == cfg.strategy  # as it is dumped


def test_one_process_shards_nothing():
    cfg = sharded()
    cfg.launcher = 'none'
    sharding.check_sharding(cfg)
    assert 'strategy' not in cfg and 'runner_type' not in cfg


def test_sharded_gradients_are_not_clipped():
    cfg = sharded()
    cfg.optim_wrapper.clip_grad = dict(max_norm=1)
    with pytest.raises(UsageError, match=r'optim_wrapper\.clip_grad: under FSDP'):
        sharding.check_sharding(cfg)


def test_blocks_are_the_units_of_sharding():
    for family in (ResT, RMT):
        backbone = tiny(family)
        units = [
            name
            for name, module in backbone.named_modules()
            if sharding.wrap_blocks(module, False, 0)
        ]
        assert len(units) == 5
        assert sharding.wrap_blocks(backbone, True, 0)
