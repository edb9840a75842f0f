"""Resolved configs of distributed runs, on the CPU and under FSDP."""

import copy

import pytest
import torch
from mmengine.config import Config

from mmrest import RMT, ResT
from mmrest.engine import distributed
from mmrest.engine.config import load_config
from mmrest.errors import UsageError
from tests.models.networks import tiny

DDP = dict(type='MMDistributedDataParallel', device_ids=None)
USUAL = dict(DDP, broadcast_buffers=False, find_unused_parameters=False)
SEPARATE = dict(type='MMSeparateDistributedDataParallel')
FSDP = dict(type='MMFullyShardedDataParallel')
DEEPSPEED = dict(type='DeepSpeedStrategy')
FLEXIBLE = dict(runner_type='FlexibleRunner')


def config(**fields):
    return Config(dict(fields, launcher='pytorch'))


@pytest.mark.parametrize('before, after', [
    ({}, USUAL),
    (dict(find_unused_parameters=True), dict(USUAL, find_unused_parameters=True)),
    (dict(model_wrapper_cfg=dict(static_graph=True)), dict(DDP, static_graph=True)),
    (dict(model_wrapper_cfg=SEPARATE), dict(SEPARATE, device_ids=None)),
    (dict(model_wrapper_cfg=FSDP), FSDP),
    (FLEXIBLE, dict(type='DDPStrategy', model_wrapper=USUAL)),
    (dict(FLEXIBLE, strategy=DEEPSPEED), DEEPSPEED),
])  # fmt: skip
def test_wrapper_on_the_cpu(before, after):
    cfg = config(**before, sync_bn='torch')
    distributed.use_cpu_wrapper(cfg)
    assert 'sync_bn' not in cfg
    assert (cfg.get('strategy') or cfg.model_wrapper_cfg) == after


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setattr(distributed, 'get_device', lambda: 'cuda')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    monkeypatch.setattr(distributed, 'set_multi_processing', lambda **_: None)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '2')
    with pytest.raises(UsageError, match=r'2 processes were started, but there are 1 GPU'):
        distributed.join_processes(config())


@pytest.mark.parametrize('rank', [0, 1])
def test_an_error_of_the_first_process(monkeypatch, rank):
    """All processes raise it, rather than wait for the first one."""

    def broadcast(objects):
        if rank:
            objects[:] = [None, 'no file']

    monkeypatch.setattr(distributed, 'get_rank', lambda: rank)
    monkeypatch.setattr(distributed, 'broadcast_object_list', broadcast)

    def fail():
        raise UsageError('no file')

    with pytest.raises(UsageError, match='no file'):
        distributed.of_first_process(fail)


def test_messages_name_their_rank(monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    assert distributed.rank_prefix() == ''
    for rank, prefix in (('0', ''), ('3', '[rank 3] ')):
        monkeypatch.setenv('RANK', rank)
        assert distributed.rank_prefix() == prefix


def test_sharded_config():
    cfg, plain = map(load_config, ('maskrcnn_rmt_l_3x_fsdp', 'maskrcnn_rmt_l_3x'))
    differing = {key for key in cfg if cfg[key] != plain.get(key)}
    assert differing == {'runner_type', 'strategy'}
    cfg.launcher = plain.launcher = 'none'
    alone = copy.deepcopy(cfg)
    distributed.check_sharding(alone)  # one process shards nothing
    assert alone.to_dict() == plain.to_dict()
    cfg.launcher = 'pytorch'
    distributed.check_sharding(cfg)
    distributed.use_cpu_wrapper(cfg)
    assert cfg.strategy.model_wrapper.device_id == 'cpu'
    assert cfg.strategy.state_dict_cfg.state_dict_config.offload_to_cpu is False
    assert Config.fromstring(cfg.pretty_text, '.py').strategy == cfg.strategy  # as it is dumped
    cfg.optim_wrapper.clip_grad = dict(max_norm=1)
    with pytest.raises(UsageError, match=r'optim_wrapper\.clip_grad: under FSDP'):
        distributed.check_sharding(cfg)
    cfg.optim_wrapper.clip_grad = None
    cfg.strategy = dict(type='FSDPStrategy')
    with pytest.raises(UsageError, match=r'strategy\.state_dict_cfg=local: mmrest cannot read'):
        distributed.check_sharding(cfg)


@pytest.mark.parametrize('family', [ResT, RMT])
def test_blocks_are_the_units_of_sharding(family):
    backbone = tiny(family)
    modules = backbone.modules()
    assert sum(bool(distributed.wrap_blocks(module, False, 0)) for module in modules) == 5
    assert distributed.wrap_blocks(backbone, True, 0)
