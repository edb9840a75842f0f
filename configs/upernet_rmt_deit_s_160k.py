# One map of stride 16; the neck computes maps of strides 4, 8, 16 and 32.
_base_ = [
    './_base_/backbones/rmt_deit_s.py',
    './_base_/models/upernet.py',
    'mmseg::_base_/datasets/ade20k.py',
    './_base_/schedules/ade20k_160k.py',
    './_base_/runtimes/segmentation.py',
]

model = dict(
    backbone=dict(_delete_=True, **_base_.backbone),
    neck=dict(
        type='MultiLevelNeck',
        in_channels=_base_.channels,
        out_channels=_base_.channels[0],
        scales=[4, 2, 1, 0.5],
    ),
    decode_head=dict(in_channels=_base_.channels * 4),
    auxiliary_head=dict(in_channels=_base_.channels[0]),
)
