# Config of `make demo-cls`: RMT-T as a classifier of synthetic shapes, from scratch, in minutes on
# two cores. The schedule is short, not the papers'.
_base_ = [
    './_base_/backbones/rmt_t.py',
    './_base_/models/rmt_classifier.py',
    './_base_/datasets/shapes_classes.py',
    './_base_/schedules/shapes_classification.py',
    './_base_/runtimes/shapes_classification.py',
]
custom_imports = dict(imports=['mmrest.classification'])

norm_cfg = dict(type='GN', num_groups=16)
model = dict(
    backbone=dict(_base_.backbone, norm_cfg=norm_cfg, drop_path_rate=0.0),
    neck=dict(in_channels=_base_.channels[3]),
    head=dict(num_classes=3),
    train_cfg=None,  # no Mixup or CutMix
)
max_iters = 250
train_cfg = dict(max_iters=max_iters, val_interval=125)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.02, begin=0, end=max_iters, by_epoch=False),
]
optim_wrapper = dict(optimizer=dict(lr=5e-4))
default_hooks = dict(checkpoint=dict(interval=125))
