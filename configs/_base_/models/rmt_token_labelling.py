# RMT with token labelling: in addition to the average, every token of the last map is classified,
# with half the weight in the loss; MixToken replaces Mixup and CutMix. The child defines backbone
# and channels as for rmt_classifier.py, and the channels of the tokens:
# head=dict(token_channels=_base_.channels[3])
_base_ = './rmt_classifier.py'

model = dict(
    type='TokenLabelClassifier',
    neck=dict(type='RMTTokenProjection', tokens='last'),
    head=dict(type='TokenLabelHead', dense_weight=0.5),
    train_cfg=None,
)
