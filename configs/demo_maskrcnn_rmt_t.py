# Config of `make demo`: Mask R-CNN with half of RMT-T's blocks, on synthetic shapes, from scratch,
# in minutes on two cores. The schedule is short, not the papers'.
_base_ = [
    './_base_/backbones/rmt_t.py',
    './_base_/models/mask_rcnn.py',
    './_base_/datasets/shapes_instance.py',
    './_base_/schedules/shapes_detection.py',
    './_base_/runtimes/shapes.py',
]

# Half of the usual channels in neck and heads, a quarter for masks, on strides 8 to 64: the head
# of stride 4 would take most of the time. Group norm, because the statistics of two images are too
# noisy for batch norm.
width = 128
norm_cfg = dict(type='GN', num_groups=16)
strides = [8, 16, 32, 64]
extractor = dict(
    roi_layer=dict(sampling_ratio=1), out_channels=width, featmap_strides=strides[:3]
)  # fmt: skip
model = dict(
    backbone=dict(
        _delete_=True,
        type='RMT',
        arch=dict(base='t', depths=(1, 1, 4, 1)),
        norm_cfg=norm_cfg,
        drop_path_rate=0.0,
        out_indices=(1, 2, 3),
    ),
    neck=dict(
        in_channels=_base_.channels[1:],
        out_channels=width,
        num_outs=len(strides),
        norm_cfg=norm_cfg,
    ),
    rpn_head=dict(
        in_channels=width,
        feat_channels=width,
        anchor_generator=dict(scales=[4], strides=strides),  # shapes of 30 to 90 pixels
    ),
    roi_head=dict(
        bbox_roi_extractor=extractor,
        bbox_head=dict(in_channels=width, fc_out_channels=512, num_classes=3),
        mask_roi_extractor=extractor,
        mask_head=dict(in_channels=width, conv_out_channels=64, num_convs=2, num_classes=3),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(sampler=dict(num=64)),
    ),
    # Shapes do not overlap, so NMS keeps only the best of overlapping boxes of any class.
    test_cfg=dict(
        rpn=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(max_per_img=20, nms=dict(type='nms', iou_threshold=0.3, class_agnostic=True)),
    ),
)
max_iters = 340
train_cfg = dict(max_iters=max_iters, val_interval=170)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=40),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.02, begin=0, end=max_iters, by_epoch=False),
]
optim_wrapper = dict(optimizer=dict(lr=8e-4))
default_hooks = dict(checkpoint=dict(interval=170, save_best='coco/segm_mAP'))
