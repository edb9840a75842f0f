# Boxes as in the official ResT code at 1x: like coco_detection_ms.py, with the short side sampled
# from 640, 672, ..., 800.
_base_ = './coco_detection_ms.py'

train_pipeline = _base_.train_pipeline
train_pipeline[2]['scales'] = [(1333, short) for short in range(640, 801, 32)]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
