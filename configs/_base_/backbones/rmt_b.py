# RMT-B, with the fields of its arch (drop path 0.4) and SyncBN as in the official detection and
# segmentation code.
# ImageNet weights: row RMT-B (* means token labelling) in the README of
# https://github.com/qhfan/RMT (Baidu, with an access code).
custom_imports = dict(imports=['mmrest'], allow_failed_imports=False)

backbone = dict(type='RMT', arch='b', norm_cfg=dict(type='SyncBN', requires_grad=True))
channels = [80, 160, 320, 512]
