# UperNet with RMT-T on drawn shapes: `python tools/demo.py upernet`.
_base_ = [
    './_base_/backbones/rmt_t.py',
    './_base_/models/upernet.py',
    './_base_/datasets/shapes_semantic.py',
    './_base_/schedules/shapes_segmentation.py',
    './_base_/segmentation_runtime.py',
]

model = dict(
    data_preprocessor=dict(size=(160, 192)),
    backbone=dict(_delete_=True, drop_path_rate=0.0, **_base_.backbone),
    # A quarter of the usual channels, which would take most of the time.
    decode_head=dict(in_channels=_base_.channels, channels=128, num_classes=4),
    auxiliary_head=dict(in_channels=_base_.channels[2], channels=64, num_classes=4),
)
