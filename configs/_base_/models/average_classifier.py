# The norm of the last map, its average, one linear layer: ResT as released, and the ablation
# networks of RMT, which are to be as near as possible to Swin and DeiT. The child brings backbone
# and channels:
# model = dict(backbone=_base_.backbone, head=dict(in_channels=_base_.channels[3]))
_base_ = './classifier.py'

model = dict(neck=dict(type='GlobalAveragePooling'))
