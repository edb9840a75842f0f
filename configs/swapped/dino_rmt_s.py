# mmdet's DINO with four scales and RMT-S. AdamW and a tenth of the learning rate for the backbone
# are from DINO.
_base_ = ['mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py']
custom_imports = dict(imports=['mmrest'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        _delete_=True, type='RMT', arch='s', out_indices=(1, 2, 3), norm_cfg=dict(type='SyncBN')
    ),
    neck=dict(in_channels=[128, 256, 512]),
)
