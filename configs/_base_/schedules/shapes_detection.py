# A short schedule: AdamW with a short warm-up and cosine decay, enough for a detector to learn the
# synthetic shapes from scratch.
_base_ = './coco_1x.py'

max_iters = 720
train_cfg = dict(
    _delete_=True, type='ResumableIterLoop', max_iters=max_iters, val_interval=180
)  # fmt: skip
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=40),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.02, begin=0, end=max_iters, by_epoch=False),
]
optim_wrapper = dict(optimizer=dict(lr=4e-4), clip_grad=dict(max_norm=1.0))
auto_scale_lr = None  # this LR is not for the papers' batch size
randomness = dict(seed=0)
