# What `make demo-seg` trains: Semantic FPN with ResT-Lite on drawn shapes, from scratch, in
# minutes on two cores. The schedule is that of a small job, not of the papers.
_base_ = [
    './_base_/backbones/rest_lite.py',
    './_base_/models/semantic_fpn.py',
    './_base_/datasets/shapes_semantic.py',
    'mmseg::_base_/schedules/schedule_80k.py',
    'mmseg::_base_/default_runtime.py',
]

model = dict(
    data_preprocessor=dict(size=(160, 192)),
    backbone=dict(_delete_=True, drop_path_rate=0.0, **_base_.backbone),
    neck=dict(in_channels=_base_.channels, out_channels=128),
    decode_head=dict(in_channels=[128] * 4, num_classes=4),
)

max_iters = 800
train_cfg = dict(max_iters=max_iters, val_interval=200)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.02, begin=0, end=max_iters, by_epoch=False),
]
optim_wrapper = dict(
    _delete_=True, type='OptimWrapper', clip_grad=dict(max_norm=1.0),
    optimizer=dict(type='AdamW', lr=3e-4, weight_decay=0.05),
)  # fmt: skip
randomness = dict(seed=0)
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=200, max_keep_ckpts=1, save_best='mIoU'),
)
