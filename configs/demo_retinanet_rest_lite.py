# RetinaNet with ResT-Lite on synthetic shapes: `python tools/demo.py retinanet`.
_base_ = [
    './_base_/backbones/rest_lite.py',
    './_base_/models/retinanet.py',
    './_base_/datasets/shapes_instance.py',
    './_base_/schedules/shapes_detection.py',
    './_base_/runtimes/shapes.py',
]

# Half of the usual channels in neck and head, and half of its convolutions.
width = 128
model = dict(
    backbone=dict(
        _delete_=True, out_indices=(1, 2, 3), drop_path_rate=0.0, norm_in_path=True,
        **_base_.backbone,
    ),
    neck=dict(in_channels=_base_.channels[1:], out_channels=width),
    bbox_head=dict(in_channels=width, feat_channels=width, stacked_convs=2, num_classes=3),
    test_cfg=dict(nms_pre=200, max_per_img=20),
)  # fmt: skip
max_iters = 1000
train_cfg = dict(max_iters=max_iters, val_interval=250)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.02, begin=0, end=max_iters, by_epoch=False),
]
optim_wrapper = dict(optimizer=dict(lr=3e-4))
train_dataloader = dict(batch_size=4)
val_evaluator = dict(metric='bbox')
test_evaluator = val_evaluator
