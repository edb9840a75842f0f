# own_segmentation.py for a dataset of a few hundred images, on one GPU or none; use
# --pretrained. docs/custom_data.md explains each value, and how it depends on the size.
_base_ = ['./own_segmentation.py']

max_iters = 4000
train_dataloader = dict(batch_size=8)
optim_wrapper = dict(optimizer=dict(lr=7e-5))  # 1e-4 for a batch of 16, by the square root
auto_scale_lr = dict(base_batch_size=8)
train_cfg = dict(max_iters=max_iters, val_interval=400)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=100, by_epoch=False),
    dict(type='PolyLR', power=0.9, eta_min=1e-6, begin=100, end=max_iters, by_epoch=False),
]
model = dict(backbone=dict(frozen_stages=1, norm_eval=True))
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=400, max_keep_ckpts=1),
)
