_base_ = [
    './_base_/backbones/rmt_s.py',
    './_base_/models/semantic_fpn.py',
    'mmseg::_base_/datasets/ade20k.py',
    './_base_/schedules/ade20k_80k.py',
    './_base_/runtimes/segmentation.py',
]

model = dict(
    backbone=dict(_delete_=True, **_base_.backbone), neck=dict(in_channels=_base_.channels)
)
