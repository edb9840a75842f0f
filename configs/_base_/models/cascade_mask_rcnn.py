# Cascade Mask R-CNN on an FPN over all four stages. Each stage of the cascade has four
# convolutions with SyncBN and one linear layer, and a GIoU loss of weight 10 on the decoded boxes
# of each class. The child defines backbone and channels:
# model = dict(
#     backbone=dict(_delete_=True, **_base_.backbone), neck=dict(in_channels=_base_.channels)
# )
_base_ = 'mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py'

bbox_head = dict(
    type='ConvFCBBoxHead',
    num_shared_convs=4,
    num_shared_fcs=1,
    in_channels=256,
    conv_out_channels=256,
    fc_out_channels=1024,
    roi_feat_size=7,
    num_classes=80,
    reg_class_agnostic=False,
    reg_decoded_bbox=True,
    norm_cfg=dict(type='SyncBN', requires_grad=True),
    loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    loss_bbox=dict(type='GIoULoss', loss_weight=10.0),
)
coder = dict(type='DeltaXYWHBBoxCoder', target_means=[0.0, 0.0, 0.0, 0.0])
model = dict(
    rpn_head=dict(type='Float32Head', of='RPNHead'),
    roi_head=dict(
        bbox_roi_extractor=dict(type='Float32RoIExtractor'),
        bbox_head=[
            dict(bbox_coder=dict(target_stds=[0.1, 0.1, 0.2, 0.2], **coder), **bbox_head),
            dict(bbox_coder=dict(target_stds=[0.05, 0.05, 0.1, 0.1], **coder), **bbox_head),
            dict(bbox_coder=dict(target_stds=[0.033, 0.033, 0.067, 0.067], **coder), **bbox_head),
        ],
        mask_roi_extractor=dict(type='Float32RoIExtractor'),
    ),
)
