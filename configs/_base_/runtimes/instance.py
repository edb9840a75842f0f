# Runtime of instance segmentors: masks select the best checkpoint, and mmdet has no test-time
# augmentation for them.
_base_ = './detection.py'

default_hooks = dict(checkpoint=dict(save_best='coco/segm_mAP'))
tta_model = None
tta_pipeline = None
