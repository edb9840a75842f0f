_base_ = [
    './_base_/backbones/rmt_swin_s.py',
    './_base_/models/average_classifier.py',
    './_base_/datasets/imagenet.py',
    './_base_/schedules/imagenet_300e.py',
    './_base_/runtimes/classification.py',
]
custom_imports = dict(imports=['mmrest.classification'])

model = dict(backbone=_base_.backbone, head=dict(in_channels=_base_.channels[3]))
