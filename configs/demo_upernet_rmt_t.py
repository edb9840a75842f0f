# UperNet with RMT-T on synthetic shapes: `python tools/demo.py upernet`.
_base_ = [
    './_base_/backbones/rmt_t.py',
    './_base_/models/upernet.py',
    './_base_/datasets/shapes_semantic.py',
    './_base_/schedules/shapes_segmentation.py',
    './_base_/runtimes/segmentation.py',
]

# A quarter of the usual channels, which would take most of the time. Group norm, because the
# statistics of small images are too noisy for batch norm.
norm_cfg = dict(type='GN', num_groups=16)
model = dict(
    data_preprocessor=dict(size=(64, 80)),
    backbone=dict(_delete_=True, **dict(_base_.backbone, norm_cfg=norm_cfg, drop_path_rate=0.0)),
    decode_head=dict(
        in_channels=_base_.channels,
        channels=128,
        num_classes=4,
        norm_cfg=dict(_delete_=True, **norm_cfg),
    ),
    auxiliary_head=dict(
        in_channels=_base_.channels[2],
        channels=64,
        num_classes=4,
        norm_cfg=dict(_delete_=True, **norm_cfg),
    ),
)
