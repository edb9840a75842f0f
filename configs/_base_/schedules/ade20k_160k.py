# 160k iterations: AdamW at 6e-5 for batch 16, no decay on norm layers, 1500 warm-up iterations
# from a factor of 1e-6, then linear decay to 0.
_base_ = 'mmseg::_base_/schedules/schedule_160k.py'

optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=1500, by_epoch=False),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=1500, end=160000, by_epoch=False),
]
train_cfg = dict(type='ResumableIterLoop')
default_hooks = dict(
    checkpoint=dict(type='AtomicCheckpointHook', save_best='mIoU'),
)
auto_scale_lr = dict(enable=False, base_batch_size=16)
