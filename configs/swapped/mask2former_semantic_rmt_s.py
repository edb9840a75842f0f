# mmseg's Mask2Former for semantic segmentation, with RMT-S. It also needs mmdet. As with Swin in
# mmseg, norms of the backbone have no weight decay.
_base_ = ['mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py']
custom_imports = dict(imports=['mmrest', 'mmdet.models'], allow_failed_imports=False)

model = dict(
    backbone=dict(_delete_=True, type='RMT', arch='s', norm_cfg=dict(type='SyncBN')),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
)
norms = ['backbone.extra_norms', 'retention_layer_norm', 'final_layer_norm', 'downsample.norm']
norms += [f'backbone.patch_embed.proj.{index}.' for index in (1, 4, 7, 10)]
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={name: dict(lr_mult=0.1, decay_mult=0.0) for name in norms})
)
