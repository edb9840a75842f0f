# ImageNet-1k in data/imagenet (train/ and val/, each with one folder per class). Training crops of
# 224 x 224, flip 0.5, RandAugment (m9-mstd0.5-inc), Random Erasing 0.25; tests on the central
# 224 x 224 of a short side of 256: mmpretrain's own. 8 x 128 images make a batch of 1024.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py'

train_dataloader = dict(batch_size=128)
