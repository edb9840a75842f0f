# A short schedule: AdamW with a short warm-up and cosine decay, enough for a classifier to learn
# the synthetic shapes from scratch.
max_iters = 600
train_cfg = dict(type='ResumableIterLoop', max_iters=max_iters, val_interval=200)
val_cfg = dict()
test_cfg = dict()
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.02, begin=0, end=max_iters, by_epoch=False),
]
optim_wrapper = dict(
    type='OptimWrapper',
    clip_grad=dict(max_norm=1.0),
    optimizer=dict(type='AdamW', lr=2e-4, weight_decay=0.05),
)
