# A short schedule: AdamW with a short warm-up and cosine decay, enough for a segmentor to learn
# the synthetic shapes from scratch.
_base_ = 'mmseg::_base_/schedules/schedule_80k.py'

max_iters = 480
train_cfg = dict(type='ResumableIterLoop', max_iters=max_iters, val_interval=240)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=40),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.02, begin=0, end=max_iters, by_epoch=False),
]
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    clip_grad=dict(max_norm=1.0),
    optimizer=dict(type='AdamW', lr=1.5e-3, weight_decay=0.05),
)
randomness = dict(seed=0)
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(type='AtomicCheckpointHook', interval=240, max_keep_ckpts=1, save_best='mIoU'),
)
