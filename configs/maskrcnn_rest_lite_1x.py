_base_ = [
    './_base_/backbones/rest_lite.py',
    './_base_/models/mask_rcnn.py',
    './_base_/datasets/coco_instance_rest.py',
    './_base_/schedules/coco_1x.py',
    './_base_/runtimes/instance.py',
]

model = dict(
    backbone=dict(_delete_=True, norm_in_path=True, **_base_.backbone),
    neck=dict(in_channels=_base_.channels),
)
optim_wrapper = dict(clip_grad=dict(max_norm=0.01))
