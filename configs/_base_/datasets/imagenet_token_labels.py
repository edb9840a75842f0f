# ImageNet-1k with dense labels of a teacher in data/imagenet/label_top5_train_nfnet, one file per
# image of train/ (docs/classification.md). Augmentations are as in imagenet.py; the labels follow
# crop, flip and RandAugment. As in the official code, the teacher also sets the class of each crop
# (relabel; not specified in the paper), and tests use the central 224 x 224 of a short side of 233
# (224 / 0.96). 16 x 128 images make a batch of 2048.
_base_ = './imagenet.py'

bgr_mean, bgr_std = _base_.bgr_mean, _base_.bgr_std
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TrackedResizedCrop', scale=224, backend='pillow', interpolation='bicubic'),
    dict(type='TrackedFlip', prob=0.5, direction='horizontal'),
    dict(
        type='TrackedRandAugment',
        policies='timm_increasing',
        num_policies=2,
        total_level=10,
        magnitude_level=9,
        magnitude_std=0.5,
        hparams=dict(pad_val=[round(x) for x in bgr_mean], interpolation='bicubic'),
    ),
    dict(
        type='RandomErasing',
        erase_prob=0.25,
        mode='rand',
        min_area_ratio=0.02,
        max_area_ratio=1 / 3,
        fill_color=bgr_mean,
        fill_std=bgr_std,
    ),
    dict(
        type='LoadTokenLabels',
        label_root='data/imagenet/label_top5_train_nfnet',
        num_classes=1000,
        grid=7,
        relabel=True,
    ),
    dict(type='PackInputs', algorithm_keys=['token_label']),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=233, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
