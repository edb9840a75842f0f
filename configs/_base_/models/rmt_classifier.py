# RMT's official classifier: the last map without a norm, linear to 1024, batch norm, SiLU,
# average, one linear layer. The child defines backbone and channels, with the BN of the official
# classification code instead of the detectors' SyncBN:
# model = dict(
#     backbone=dict(_base_.backbone, norm_cfg=dict(type='BN')),
#     neck=dict(in_channels=_base_.channels[3]),
# )
_base_ = './classifier.py'

model = dict(
    backbone=dict(output_norms=False),
    neck=dict(type='RMTProjection', out_channels=1024),
    head=dict(in_channels=1024),
)
