# What `make demo` trains: Mask R-CNN with RMT-T on drawn shapes, from scratch, in minutes on two
# cores. The schedule is that of a small job, not of the papers.
_base_ = [
    './_base_/backbones/rmt_t.py',
    './_base_/models/mask_rcnn.py',
    './_base_/datasets/shapes_instance.py',
    './_base_/schedules/coco_1x.py',
    'mmdet::_base_/default_runtime.py',
]

model = dict(
    backbone=dict(_delete_=True, drop_path_rate=0.0, **_base_.backbone),
    neck=dict(in_channels=_base_.channels),
    # Shapes of 30 to 90 pixels, on maps whose finest stride is 4.
    rpn_head=dict(anchor_generator=dict(scales=[4])),
    roi_head=dict(bbox_head=dict(num_classes=3), mask_head=dict(num_classes=3)),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(sampler=dict(num=64)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100), rcnn=dict(max_per_img=20)),
)

max_epochs = 4
train_cfg = dict(max_epochs=max_epochs, val_interval=2)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=10),
    dict(
        type='CosineAnnealingLR', eta_min_ratio=0.02, begin=0, end=max_epochs,
        by_epoch=True, convert_to_iter_based=True,
    ),
]  # fmt: skip
optim_wrapper = dict(optimizer=dict(lr=4e-4), clip_grad=dict(max_norm=1.0))
randomness = dict(seed=0)
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(max_keep_ckpts=1, save_best='coco/segm_mAP')
)
