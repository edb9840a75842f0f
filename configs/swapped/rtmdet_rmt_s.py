# mmdet's RTMDet-s with RMT-S instead of CSPNeXt. Its neck expects three maps; the last three
# stages of RMT-S have the same channels.
_base_ = ['mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py']
custom_imports = dict(imports=['mmrest'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        _delete_=True, type='RMT', arch='s', out_indices=(1, 2, 3), norm_cfg=dict(type='SyncBN')
    ),
    neck=dict(in_channels=[128, 256, 512]),
)
