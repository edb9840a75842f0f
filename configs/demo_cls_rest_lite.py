# ResT-Lite as a classifier of synthetic shapes: `python tools/demo.py cls_rest_lite`.
_base_ = [
    './_base_/backbones/rest_lite.py',
    './_base_/models/average_classifier.py',
    './_base_/datasets/shapes_classes.py',
    './_base_/schedules/shapes_classification.py',
    './_base_/runtimes/shapes_classification.py',
]
custom_imports = dict(imports=['mmrest.classification'])

model = dict(
    backbone=dict(_base_.backbone, drop_path_rate=0.0),
    head=dict(in_channels=_base_.channels[3], num_classes=3),
    train_cfg=None,  # no Mixup or CutMix
)
