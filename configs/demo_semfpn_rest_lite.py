# What `make demo-seg` trains: Semantic FPN with ResT-Lite on drawn shapes, from scratch, in
# minutes on two cores. The schedule is that of a small job, not of the papers.
_base_ = [
    './_base_/backbones/rest_lite.py',
    './_base_/models/semantic_fpn.py',
    './_base_/datasets/shapes_semantic.py',
    './_base_/schedules/shapes_segmentation.py',
    './_base_/segmentation_runtime.py',
]

model = dict(
    data_preprocessor=dict(size=(160, 192)),
    backbone=dict(_delete_=True, drop_path_rate=0.0, **_base_.backbone),
    neck=dict(in_channels=_base_.channels, out_channels=128),
    decode_head=dict(in_channels=[128] * 4, num_classes=4),
)
