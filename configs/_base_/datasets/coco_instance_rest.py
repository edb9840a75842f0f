# Boxes and masks as in the official ResT code at 1x: a crop of 0.9 x 0.9 of the image, then a
# short side sampled from 640, 672, ..., 800.
_base_ = 'mmdet::_base_/datasets/coco_instance.py'

train_pipeline = [
    dict(type='LoadImageFromFile', backend_args=_base_.backend_args),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='RandomCrop',
        crop_type='relative',
        crop_size=(0.9, 0.9),
        allow_negative_crop=True,
        recompute_bbox=True,  # from the cropped masks, as detectron2 does
    ),
    # Drops objects of which nothing is left: their boxes are empty, and their box loss is NaN.
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1e-5, 1e-5), keep_empty=False),
    dict(
        type='RandomChoiceResize',
        scales=[(1333, short) for short in range(640, 801, 32)],
        keep_ratio=True,
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
