_base_ = [
    './_base_/backbones/rest_base.py',
    './_base_/models/retinanet.py',
    './_base_/datasets/coco_detection_ms.py',
    './_base_/schedules/coco_3x.py',
    './_base_/runtimes/detection.py',
]

model = dict(
    backbone=dict(_delete_=True, out_indices=(1, 2, 3), norm_in_path=True, **_base_.backbone),
    neck=dict(in_channels=_base_.channels[1:]),
)
