# mmdet's ATSS with RMT-S. Its FPN starts at the second stage (start_level=1), so the backbone
# returns three maps, and the FPN starts at the first of them.
_base_ = ['mmdet::atss/atss_r50_fpn_1x_coco.py']
custom_imports = dict(imports=['mmrest'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        _delete_=True, type='RMT', arch='s', out_indices=(1, 2, 3), norm_cfg=dict(type='SyncBN')
    ),
    neck=dict(in_channels=[128, 256, 512], start_level=0),
)
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0),
)
