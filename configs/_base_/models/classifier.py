# Shared base of the classifiers: one linear layer on an average, label smoothing of 0.1, and Mixup
# (0.8) or CutMix (1.0) of every batch with equal probability. Its children are
# average_classifier.py and rmt_classifier.py.
model = dict(
    type='ReleasedClassifier',
    backbone=dict(out_indices=(3,)),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
    ),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
)
