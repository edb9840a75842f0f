# Config of `make demo-seg`: Semantic FPN with ResT-Lite on synthetic shapes, from scratch, in
# minutes on two cores. The schedule is short, not the papers'.
_base_ = [
    './_base_/backbones/rest_lite.py',
    './_base_/models/semantic_fpn.py',
    './_base_/datasets/shapes_semantic.py',
    './_base_/schedules/shapes_segmentation.py',
    './_base_/runtimes/segmentation.py',
]

# Half of the usual channels. Group norm, because the statistics of small images are too noisy
# for batch norm.
width = 64
norm_cfg = dict(type='GN', num_groups=16)
model = dict(
    data_preprocessor=dict(size=(64, 80)),
    backbone=dict(_delete_=True, **dict(_base_.backbone, norm_cfg=norm_cfg, drop_path_rate=0.0)),
    neck=dict(in_channels=_base_.channels, out_channels=width),
    decode_head=dict(
        in_channels=[width] * 4,
        channels=width,
        dropout_ratio=0,
        num_classes=4,
        norm_cfg=dict(_delete_=True, **norm_cfg),
    ),
)
train_dataloader = dict(batch_size=7)  # for a short demo
