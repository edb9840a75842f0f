# Custom images with label maps: edit the first lines below, then train this file. By default it
# uses the synthetic dataset that `python tools/make_shapes.py data/shapes` generates.
_base_ = './semfpn_rmt_s_80k.py'

data_root = 'data/shapes/ade/'  # the folder that holds images/ and annotations/
classes = ('background', 'square', 'disc', 'triangle')  # in the order of their values in the maps
reduce_zero_label = True  # True: 0 is unlabelled, 1 the first class; False: 0 the first class
void = 255  # value of pixels without a class, after reduce_zero_label
suffixes = ('.jpg', '.png')  # of images and label maps
palette = []  # a colour (R, G, B) per class; empty: chosen automatically

# The rest follows. Other names of folders go into data_prefix.
metainfo = dict(classes=classes, palette=palette)
crop_size = (512, 512)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75, ignore_index=void),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2048, 512), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
own = dict(
    _delete_=True,
    type='BaseSegDataset',
    data_root=data_root,
    metainfo=metainfo,
    reduce_zero_label=reduce_zero_label,
    ignore_index=void,
    img_suffix=suffixes[0],
    seg_map_suffix=suffixes[1],
)
train_dataloader = dict(
    dataset=dict(
        **own,
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        **own,
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ignore_index=void)
test_evaluator = val_evaluator
model = dict(
    data_preprocessor=dict(size=crop_size, seg_pad_val=void),
    decode_head=dict(num_classes=len(classes), ignore_index=void),
)
