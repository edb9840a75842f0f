_base_ = [
    './_base_/backbones/rmt_s.py',
    './_base_/models/rmt_token_labelling.py',
    './_base_/datasets/imagenet_token_labels.py',
    './_base_/schedules/imagenet_310e.py',
    './_base_/runtimes/token_labelling.py',
]
custom_imports = dict(imports=['mmrest.classification'])

# The token classifier uses the 1024 projected channels, which matches the 27,992,240 parameters in
# the authors' log. The official code applies it to the last map; for such a file:
# --cfg-options model.neck.tokens=last model.head.token_channels=512
model = dict(
    backbone=dict(_base_.backbone, norm_cfg=dict(type='BN'), drop_path_rate=0.1),
    neck=dict(in_channels=_base_.channels[3], tokens='projected'),
    head=dict(token_channels=1024),
)
