# mmdet's RTMDet-s with RMT-S instead of CSPNeXt. Its neck expects three maps; the last three
# stages of RMT-S have the same channels. Its weights expect RGB images, those of CSPNeXt BGR.
_base_ = ['mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py']
custom_imports = dict(imports=['mmrest'], allow_failed_imports=False)

model = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True
    ),
    backbone=dict(
        _delete_=True, type='RMT', arch='s', out_indices=(1, 2, 3), norm_cfg=dict(type='SyncBN')
    ),
    neck=dict(in_channels=[128, 256, 512]),
)
auto_scale_lr = dict(base_batch_size=256)  # of its learning rate, 32 x 8; mmdet's is 16
