# Cascade Mask R-CNN with RMT-T on synthetic shapes: `python tools/demo.py cascade_maskrcnn`.
_base_ = [
    './_base_/backbones/rmt_t.py',
    './_base_/models/cascade_mask_rcnn.py',
    './_base_/datasets/shapes_instance.py',
    './_base_/schedules/shapes_detection.py',
    './_base_/runtimes/shapes.py',
]

# Half of the usual channels in neck and heads, which take most of the time.
width = 128
model = dict(
    backbone=dict(_delete_=True, drop_path_rate=0.0, **_base_.backbone),
    neck=dict(in_channels=_base_.channels, out_channels=width),
    # Shapes of 30 to 90 pixels, on maps whose finest stride is 4.
    rpn_head=dict(in_channels=width, feat_channels=width, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=width),
        bbox_head=[
            dict(
                head,
                in_channels=width,
                conv_out_channels=width,
                fc_out_channels=512,
                num_classes=3,
            )
            for head in _base_.model.roi_head.bbox_head
        ],
        mask_roi_extractor=dict(out_channels=width),
        mask_head=dict(in_channels=width, conv_out_channels=width, num_classes=3),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=[
            dict(stage, sampler=dict(stage.sampler, num=32))
            for stage in _base_.model.train_cfg.rcnn
        ],
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100), rcnn=dict(max_per_img=20)),
)
default_hooks = dict(checkpoint=dict(save_best='coco/segm_mAP'))
