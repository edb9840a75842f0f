# Synthetic shapes of tools/make_shapes.py, with label maps, at their own size. They load faster
# without workers.
_base_ = 'mmseg::_base_/datasets/ade20k.py'

data_root = 'data/shapes/ade/'
metainfo = dict(
    classes=('background', 'square', 'disc', 'triangle'),
    palette=[(128, 128, 128), (220, 60, 60), (60, 130, 230), (60, 180, 75)],
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='PackSegInputs'),
]
shapes = dict(
    type='BaseSegDataset', data_root=data_root, metainfo=metainfo, reduce_zero_label=True,
    img_suffix='.jpg', seg_map_suffix='.png',
)  # fmt: skip
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        **shapes,
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        **shapes,
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
