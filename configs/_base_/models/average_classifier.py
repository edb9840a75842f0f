# Norm and global average pooling of the last map, then one linear layer: ResT's official
# classifier, also for the ablation networks of RMT, to be as close as possible to Swin and DeiT.
# The child defines backbone and channels:
# model = dict(backbone=_base_.backbone, head=dict(in_channels=_base_.channels[3]))
_base_ = './classifier.py'

model = dict(neck=dict(type='GlobalAveragePooling'))
