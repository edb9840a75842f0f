_base_ = [
    './_base_/backbones/rmt_l.py',
    './_base_/models/mask_rcnn.py',
    './_base_/datasets/coco_instance_ms.py',
    './_base_/schedules/coco_3x.py',
    './_base_/runtimes/instance.py',
]

model = dict(
    backbone=dict(_delete_=True, **_base_.backbone), neck=dict(in_channels=_base_.channels)
)
