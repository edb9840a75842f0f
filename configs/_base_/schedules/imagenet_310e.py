# 310 epochs at a peak of 2e-3 for batch 2048, the same LR per image as in imagenet_300e.py;
# otherwise like it. The LR is from the authors' log of S*: it starts at 1e-6, and the cosine ends
# at 1e-5 after epoch 310.
_base_ = './imagenet_300e.py'

optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=5e-4, begin=0, end=5, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-5,
        T_max=305,
        begin=5,
        end=310,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=310)
auto_scale_lr = dict(base_batch_size=2048)
