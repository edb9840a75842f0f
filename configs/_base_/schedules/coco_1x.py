# 12 epochs with steps at 8 and 11, 500 warm-up iterations from factor 0.001, as in mmdet. AdamW
# at 1e-4 for batch 16 (8 x 2), no decay on norm layers.
# The official RMT code uses 4e-4 (T, S, and B at 1x) or 2e-4 (L, and B at 3x), with 2 images per
# GPU on an unstated number of GPUs.
_base_ = 'mmdet::_base_/schedules/schedule_1x.py'

train_cfg = dict(type='ResumableEpochLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
