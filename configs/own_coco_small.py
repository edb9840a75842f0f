# own_coco.py for a dataset of a few hundred images, on one GPU or none; use --pretrained.
# docs/custom_data.md explains each value, and how it depends on the size.
_base_ = ['./own_coco.py']

max_epochs = 40
# The batch and learning rate of one GPU: 1e-4 for a batch of 16, scaled by the square root.
train_dataloader = dict(batch_size=4)
optim_wrapper = dict(optimizer=dict(lr=5e-5))
auto_scale_lr = dict(base_batch_size=4)
train_cfg = dict(max_epochs=max_epochs, val_interval=5)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', begin=1, end=max_epochs, T_max=max_epochs - 1,
         eta_min_ratio=0.01, convert_to_iter_based=True),
]  # fmt: skip
model = dict(backbone=dict(frozen_stages=1, norm_eval=True))
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=5, max_keep_ckpts=1),
)
