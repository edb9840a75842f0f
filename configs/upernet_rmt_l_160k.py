_base_ = [
    './_base_/backbones/rmt_l.py',
    './_base_/models/upernet.py',
    'mmseg::_base_/datasets/ade20k.py',
    './_base_/schedules/ade20k_160k.py',
    './_base_/runtimes/segmentation.py',
]

model = dict(
    backbone=dict(_delete_=True, **_base_.backbone),
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]),
)
