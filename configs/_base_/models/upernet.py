# UperNet over all four stages, with an auxiliary FCN head on the third. The child defines
# backbone and channels:
# model = dict(
#     backbone=dict(_delete_=True, **_base_.backbone),
#     decode_head=dict(in_channels=_base_.channels),
#     auxiliary_head=dict(in_channels=_base_.channels[2]),
# )
_base_ = 'mmseg::_base_/models/upernet_r50.py'

model = dict(
    pretrained=None,  # the base loads ResNet-50
    data_preprocessor=dict(size=(512, 512)),
    decode_head=dict(num_classes=150),
    auxiliary_head=dict(num_classes=150),
)
