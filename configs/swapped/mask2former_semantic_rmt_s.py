# mmseg's Mask2Former for semantic segmentation, with RMT-S. It also needs mmdet.
_base_ = ['mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py']
custom_imports = dict(imports=['mmrest', 'mmdet.models'], allow_failed_imports=False)

model = dict(
    backbone=dict(_delete_=True, type='RMT', arch='s', norm_cfg=dict(type='SyncBN')),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
)
