# mmdet's Mask2Former for instance segmentation, with RMT-S. It has no neck; its head needs the
# channels of all four maps. As with Swin in mmdet, norms of the backbone have no weight decay.
_base_ = ['mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py']
custom_imports = dict(imports=['mmrest'], allow_failed_imports=False)

model = dict(
    backbone=dict(_delete_=True, type='RMT', arch='s', norm_cfg=dict(type='SyncBN')),
    panoptic_head=dict(in_channels=[64, 128, 256, 512]),
)
norms = ['backbone.extra_norms', 'retention_layer_norm', 'final_layer_norm', 'downsample.norm']
norms += [f'backbone.patch_embed.proj.{index}.' for index in (1, 4, 7, 10)]
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={name: dict(lr_mult=0.1, decay_mult=0.0) for name in norms})
)
