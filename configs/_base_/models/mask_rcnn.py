# Mask R-CNN on an FPN over all four stages. The child defines backbone and channels:
# model = dict(
#     backbone=dict(_delete_=True, **_base_.backbone), neck=dict(in_channels=_base_.channels)
# )
_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'

model = dict(
    rpn_head=dict(type='Float32Head', of='RPNHead'),
    roi_head=dict(
        bbox_roi_extractor=dict(type='Float32RoIExtractor'),
        mask_roi_extractor=dict(type='Float32RoIExtractor'),
    ),
)
