# A custom dataset in COCO format: edit the two lines below, then train this file. By default it
# uses the synthetic dataset that `python tools/make_shapes.py data/shapes` generates.
_base_ = './maskrcnn_rmt_s_3x.py'

data_root = 'data/shapes/coco/'  # the folder that holds annotations/, train2017/ and val2017/
classes = ('square', 'disc', 'triangle')  # categories, in the order of the annotation files

# The rest follows. Other names of files go into ann_file and data_prefix.
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
metainfo = dict(classes=classes)
train_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'),
    ),
)
val_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'),
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=f'{data_root}/annotations/instances_val2017.json')
test_evaluator = val_evaluator
model = dict(
    roi_head=dict(
        bbox_head=dict(num_classes=len(classes)), mask_head=dict(num_classes=len(classes))
    )
)
