# Semantic FPN over all four stages. The child defines backbone and channels:
# model = dict(
#     backbone=dict(_delete_=True, **_base_.backbone), neck=dict(in_channels=_base_.channels)
# )
_base_ = 'mmseg::_base_/models/fpn_r50.py'

model = dict(
    pretrained=None,  # the base loads ResNet-50
    data_preprocessor=dict(size=(512, 512)),
    decode_head=dict(num_classes=150),
)
