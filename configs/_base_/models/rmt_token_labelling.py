# RMT with token labelling: beside the class of the average, every token of the last map has one,
# with half the weight in the loss; MixToken takes the place of Mixup and CutMix. The child brings
# backbone and channels as for rmt_classifier.py, and the channels of the tokens:
# head=dict(token_channels=_base_.channels[3])
_base_ = './rmt_classifier.py'

model = dict(
    type='TokenLabelClassifier',
    neck=dict(type='RMTTokenProjection', tokens='last'),
    head=dict(type='TokenLabelHead', dense_weight=0.5),
    train_cfg=None,
)
