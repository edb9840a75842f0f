# RetinaNet on stages 2 to 4, with two more levels from the last one. The child builds only these
# stages, so that every parameter is used, and defines backbone and channels:
# model = dict(
#     backbone=dict(_delete_=True, out_indices=(1, 2, 3), **_base_.backbone),
#     neck=dict(in_channels=_base_.channels[1:]),
# )
_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'

model = dict(
    neck=dict(start_level=0),  # all maps of the backbone
    bbox_head=dict(type='Float32Head', of='RetinaHead'),
)
