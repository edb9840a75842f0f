_base_ = [
    './_base_/backbones/rmt_s.py',
    './_base_/models/retinanet.py',
    './_base_/datasets/coco_detection_ms.py',
    './_base_/schedules/coco_3x.py',
    './_base_/runtimes/detection.py',
]

model = dict(
    backbone=dict(_delete_=True, out_indices=(1, 2, 3), **_base_.backbone),
    neck=dict(in_channels=_base_.channels[1:]),
)
optim_wrapper = dict(optimizer=dict(weight_decay=1e-4))
