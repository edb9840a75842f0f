"""Parameters and MACs."""

import math
import re
from collections import Counter

import pytest
import torch
from torch import nn

from mmrest import ResT
from mmrest.analysis.complexity import count, count_parts
from mmrest.analysis.networks import OURS, network_config, on_meta
from mmrest.errors import UsageError
from mmrest.ops import use_backend
from tests.reference import KEYS
from tests.runs import ROOT
from tests.torch_versions import needs_torch

# In G at 224 x 224: all matmuls and convolutions of a backbone, and those of its attention.
MACS = {
    'rest_lite': (1.533, 0.074),
    'rest_small': (2.093, 0.093),
    'rest_base': (4.625, 0.140),
    'rest_large': (8.359, 0.229),
    'rmt_t': (2.611, 0.275),
    'rmt_s': (4.750, 0.240),
    'rmt_b': (10.346, 0.445),
    'rmt_l': (19.455, 0.620),
    'rmt_swin_t': (4.551, None),
    'rmt_swin_s': (8.763, None),
    'rmt_deit_s': (4.574, None),
}


LARGE = ('rmt_b', 'rmt_l', 'rest_large', 'rmt_swin_s')


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in OURS
])  # fmt: skip
def test_backbones(name):
    """Parameters are also counted by part from the tensor names of the official weights."""
    network = on_meta(network_config(name))
    with use_backend('torch'):  # the counts are those of the reference
        parts = count_parts(network, 224, 224)
    stages = [f'stage {stage + 1}' for stage in range(network.num_stages)]
    assert [part.name for part in parts] == ['stem', *stages, 'output norms']
    macs, attention = MACS[name]
    assert sum(part.macs for part in parts) / 1e9 == pytest.approx(macs, abs=6e-4)
    assert [part.name for part in parts if part.attention] == stages
    if attention is not None:
        found = sum(part.attention for part in parts) / 1e9
        assert found == pytest.approx(attention, abs=6e-4)
    trained = dict(network.named_parameters())
    shapes = KEYS.get(name, {key: value.shape for key, value in trained.items()})
    expected = Counter()
    for tensor in trained:
        expected[part_in_file(tensor)] += math.prod(shapes[tensor])
    assert {part.name: part.parameters for part in parts} == expected


def part_in_file(tensor):
    if tensor.startswith(('stem.', 'patch_embed.')):
        return 'stem'
    if tensor.startswith(('extra_norms.', 'norm')):
        return 'output norms'
    number = int(re.search(r'(?:layers\.|stage|patch_embed_)(\d)', tensor).group(1))
    if tensor.startswith('layers.'):  # which count from 0 and hold the way to the next stage
        number += 2 if '.downsample.' in tensor else 1
    return f'stage {number}'


def test_stages_by_hand():
    """A network with one block per stage, layer by layer."""
    arch = dict(dims=(8, 16), depths=(1, 1), num_heads=(1, 2), sr_ratios=(2, 1), mlp_ratio=3)
    found = {p.name: p for p in count_parts(ResT(arch, out_indices=(0, 1)), 32, 48)}
    tokens, keys = 8 * 12, 4 * 6
    stem = 27 * 4 * 16 * 24 + 36 * 4 * 16 * 24 + 36 * 8 * tokens + 9 * 8 * tokens
    assert found['stem'].macs == stem
    linear, reduction = (2 + 6) * 64 * tokens + 2 * 64 * keys, 9 * 8 * keys
    assert found['stage 1'].attention == 2 * 8 * tokens * keys
    assert found['stage 1'].macs == linear + reduction + found['stage 1'].attention
    down, linear, mix = (9 * 8 * 16 + 9 * 16) * keys, (4 + 6) * 256 * keys, 4 * keys**2
    assert found['stage 2'].attention == 2 * 16 * keys**2
    assert found['stage 2'].macs == down + linear + mix + found['stage 2'].attention


@pytest.mark.parametrize('name, first, macs', [
    ('resnet_50', 'conv1', 4.09), ('swin_t', 'patch_embed', 4.49),
])  # fmt: skip
def test_other_backbones(name, first, macs):
    parts = count_parts(on_meta(network_config(name)), 224, 224)
    assert parts[0].name == first and all(part.parameters for part in parts)
    assert sum(part.macs for part in parts) / 1e9 == pytest.approx(macs, abs=0.01)


class Own(nn.Module):
    """A network with a matmul and a parameter outside of its children."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)])
        self.scale = nn.Parameter(torch.ones(6, 6))

    def forward(self, x):
        return self.blocks[1](self.blocks[0](x)) @ self.scale


@needs_torch(2, 2, 'deformable convolution on the meta device')
def test_deformable_convolutions():
    """They have the MACs of plain ones, and those of their offsets."""
    dcn = dict(type='DCNv2', deform_groups=1)
    options = {'model.dcn': dcn, 'model.stage_with_dcn': (False, True, True, True)}
    plain, deformable = (network_config('resnet_50', each) for each in ({}, options))
    assert 1 < count(on_meta(deformable), 64, 64).macs / count(on_meta(plain), 64, 64).macs < 1.3


def test_other_part():
    """It is counted too; the network is unchanged."""
    network = Own().train()
    parts = {part.name: part for part in count_parts(network, 5, 6)}
    assert list(parts) == ['other', 'blocks.0', 'blocks.1']
    assert parts['blocks.0'] == parts['blocks.1']._replace(name='blocks.0')
    assert parts['blocks.0'].macs == 9 * 30 and parts['other'].parameters == 36
    assert parts['other'].macs == 3 * 5 * 6 * 6
    assert count(network, 5, 6) == (2 * 12 + 36, 2 * 9 * 30 + 3 * 5 * 6 * 6)
    network.blocks[1].eval()
    assert count(network.double(), 5, 6).parameters == 2 * 12 + 36
    assert network.training and [block.training for block in network.blocks] == [True, False]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


@pytest.mark.parametrize('config, heads', [
    ('cascade_maskrcnn_rest_lite_1x',
     ['neck', 'rpn_head', 'roi_head.bbox_head', 'roi_head.mask_head']),
    ('upernet_rmt_t_160k', ['decode_head', 'auxiliary_head']),
])  # fmt: skip
def test_configs(config, heads):
    cfg = network_config(str(ROOT / 'configs' / f'{config}.py'))
    parts = count_parts(on_meta(cfg), 64, 64)
    of_backbone = [part for part in parts if part.name.startswith('backbone: ')]
    assert [part.name for part in parts if part not in of_backbone] == heads
    training_only = [part.name for part in parts if part.parameters and not part.macs]
    assert set(training_only) <= {'backbone: output norms', 'auxiliary_head'}
    assert all(part.counted for part in parts)


@pytest.mark.parametrize('config, unknown', [
    ('mmdet::point_rend/point-rend_r50-caffe_fpn_ms-1x_coco', ['roi_head.point_head']),
    ('mmdet::dino/dino-4scale_r50_8xb2-12e_coco',
     ['bbox_head', 'encoder', 'decoder', 'memory_trans_fc']),
    ('mmseg::point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024', ['decode_head.1']),
    ('mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco', [
        *(f'student: {part}' for part in ('backbone', 'neck', 'rpn_head', 'roi_head.bbox_head')),
        'teacher: rpn_head', 'teacher: roi_head.bbox_head']),
    ('mmseg::ocrnet/ocrnet_hr18s_4xb2-40k_cityscapes-512x1024', []),
])  # fmt: skip
def test_heads_of_another_kind(config, unknown, tmp_path):
    """Such heads are named, not counted as 0."""
    (tmp_path / 'x.py').write_text(f"_base_ = '{config}.py'")
    network = on_meta(network_config(str(tmp_path / 'x.py')))
    parts = count_parts(network, 64, 64)
    assert [each.name for each in parts if not each.counted] == unknown
    assert all(each.macs > 0 for each in parts if each.name.endswith(('backbone', 'neck', '_head'))
               and each.name not in (*unknown, 'auxiliary_head'))  # fmt: skip
    if not unknown:
        return
    with pytest.raises(UsageError, match=f'MACs of {", ".join(unknown)} of .* cannot be counted'):
        count(network, 64, 64)


class HalfRun(nn.Module):
    """A model with a head that fails in a layer without forward, before one that runs."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1)
        self.bbox_head = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Sequential(nn.Module()))

    def extract_feat(self, image):
        return self.backbone(image)


def test_a_head_that_fails_halfway():
    parts = count_parts(HalfRun(), 5, 6)
    assert [part[2:] for part in parts] == [(360, 0, True), (600, 0, True), (0, 0, False)]
