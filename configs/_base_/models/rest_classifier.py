# ResT as a classifier, as released: the norm of the last map, its average, one linear layer. The
# child brings backbone and channels:
# model = dict(backbone=_base_.backbone, head=dict(in_channels=_base_.channels[3]))
_base_ = './classifier.py'

model = dict(neck=dict(type='GlobalAveragePooling'))
