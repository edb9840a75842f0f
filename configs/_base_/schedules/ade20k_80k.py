# 80k iterations: AdamW at 1e-4 for batch 16, polynomial decay of power 0.9 down to 1e-6.
_base_ = 'mmseg::_base_/schedules/schedule_80k.py'

optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-4),
)
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=1e-6, begin=0, end=80000, by_epoch=False)
]
train_cfg = dict(type='ResumableIterLoop')
default_hooks = dict(
    checkpoint=dict(type='AtomicCheckpointHook', save_best='mIoU'),
)
auto_scale_lr = dict(enable=False, base_batch_size=16)
