# Like coco_instance_rest.py, with the scales of the 3x schedule: 480, 512, ..., 800.
_base_ = './coco_instance_rest.py'

train_pipeline = _base_.train_pipeline
train_pipeline[4]['scales'] = [(1333, short) for short in range(480, 801, 32)]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
