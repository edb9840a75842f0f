_base_ = [
    './_base_/backbones/rmt_t.py',
    './_base_/models/cascade_mask_rcnn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    './_base_/schedules/coco_1x.py',
    './_base_/runtimes/instance.py',
]

model = dict(
    backbone=dict(_delete_=True, **_base_.backbone), neck=dict(in_channels=_base_.channels)
)
