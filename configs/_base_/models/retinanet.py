# RetinaNet on stages 2 to 4, with two more levels made from the last of them. The child builds no
# more stages than these, so that no parameter is idle, and brings backbone and channels:
# model = dict(
#     backbone=dict(_delete_=True, out_indices=(1, 2, 3), **_base_.backbone),
#     neck=dict(in_channels=_base_.channels[1:]),
# )
_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'

model = dict(
    neck=dict(start_level=0),  # all that the backbone gives
    bbox_head=dict(type='Float32Head', of='RetinaHead'),
)
