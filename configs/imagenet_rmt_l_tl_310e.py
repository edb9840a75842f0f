_base_ = [
    './_base_/backbones/rmt_l.py',
    './_base_/models/rmt_token_labelling.py',
    './_base_/datasets/imagenet_token_labels.py',
    './_base_/schedules/imagenet_310e.py',
    './_base_/runtimes/token_labelling.py',
]
custom_imports = dict(imports=['mmrest.classification'])

model = dict(
    backbone=dict(_base_.backbone, norm_cfg=dict(type='BN')),
    neck=dict(in_channels=_base_.channels[3]),
    head=dict(token_channels=_base_.channels[3]),
)
