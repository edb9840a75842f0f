# mmdet's Mask2Former for instance segmentation, with RMT-S. It has no neck; its head needs the
# channels of all four maps.
_base_ = ['mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py']
custom_imports = dict(imports=['mmrest'], allow_failed_imports=False)

model = dict(
    backbone=dict(_delete_=True, type='RMT', arch='s', norm_cfg=dict(type='SyncBN')),
    panoptic_head=dict(in_channels=[64, 128, 256, 512]),
)
