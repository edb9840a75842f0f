# What `make demo` trains: Mask R-CNN with RMT-T on drawn shapes, from scratch, in minutes on two
# cores. The schedule is that of a small job, not of the papers.
_base_ = [
    './_base_/backbones/rmt_t.py',
    './_base_/models/mask_rcnn.py',
    './_base_/datasets/shapes_instance.py',
    './_base_/schedules/coco_1x.py',
    'mmdet::_base_/default_runtime.py',
]

# Half of the usual channels in neck and heads, which would take most of the time.
width = 128
model = dict(
    backbone=dict(_delete_=True, drop_path_rate=0.0, **_base_.backbone),
    neck=dict(in_channels=_base_.channels, out_channels=width),
    # Shapes of 30 to 90 pixels, on maps whose finest stride is 4.
    rpn_head=dict(in_channels=width, feat_channels=width, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=width),
        bbox_head=dict(in_channels=width, fc_out_channels=512, num_classes=3),
        mask_roi_extractor=dict(out_channels=width),
        mask_head=dict(in_channels=width, conv_out_channels=width, num_classes=3),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(sampler=dict(num=64)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100), rcnn=dict(max_per_img=20)),
)

max_iters = 720
train_cfg = dict(
    _delete_=True, type='IterBasedTrainLoop', max_iters=max_iters, val_interval=180
)  # fmt: skip
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=40),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.02, begin=0, end=max_iters, by_epoch=False),
]
optim_wrapper = dict(optimizer=dict(lr=4e-4), clip_grad=dict(max_norm=1.0))
randomness = dict(seed=0)
log_processor = dict(by_epoch=False)
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(by_epoch=False, interval=180, max_keep_ckpts=1, save_best='coco/segm_mAP'),
)
