_base_ = [
    './_base_/backbones/rmt_t.py',
    './_base_/models/rmt_classifier.py',
    './_base_/datasets/imagenet.py',
    './_base_/schedules/imagenet_300e.py',
    './_base_/runtimes/classification.py',
]
custom_imports = dict(imports=['mmrest.classification'])

model = dict(
    backbone=dict(_base_.backbone, norm_cfg=dict(type='BN')),
    neck=dict(in_channels=_base_.channels[3]),
)
