# RMT-S, with the fields of its arch (drop path 0.15) and SyncBN as in the official detection and
# segmentation code.
# ImageNet weights: row RMT-S (* means token labelling) in the README of
# https://github.com/qhfan/RMT (Baidu, with an access code).
custom_imports = dict(imports=['mmrest'], allow_failed_imports=False)

backbone = dict(type='RMT', arch='s', norm_cfg=dict(type='SyncBN', requires_grad=True))
channels = [64, 128, 256, 512]
