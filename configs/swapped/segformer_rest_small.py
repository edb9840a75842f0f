# mmseg's SegFormer head with ResT-Small. AdamW and ten times the learning rate for the head are
# from SegFormer.
_base_ = ['mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py']
custom_imports = dict(imports=['mmrest'], allow_failed_imports=False)

model = dict(
    pretrained=None,  # set by mmseg 1.0.0
    backbone=dict(_delete_=True, type='ResT', arch='small', norm_cfg=dict(type='SyncBN')),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
)
