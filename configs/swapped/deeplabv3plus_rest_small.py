# mmseg's DeepLabV3+ with ResT-Small. Its last feature map has stride 32 instead of the
# dilated ResNet's 8, so the dilations are divided by four.
_base_ = ['mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512.py']
custom_imports = dict(imports=['mmrest'], allow_failed_imports=False)

model = dict(
    pretrained=None,
    backbone=dict(
        _delete_=True,
        type='ResT',
        arch='small',
        out_indices=(0, 2, 3),  # no head reads the second map
        norm_cfg=dict(type='SyncBN'),
    ),
    decode_head=dict(in_channels=512, in_index=2, c1_in_channels=64, dilations=(1, 3, 6, 9)),
    auxiliary_head=dict(in_channels=256, in_index=1),
)
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0),
)
