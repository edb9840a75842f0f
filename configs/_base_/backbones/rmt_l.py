# RMT-L: drop path 0.5 and the other fields are those of the arch; SyncBN as in the released
# detection and segmentation code.
# ImageNet weights: the row RMT-L (without *, which means token labelling) of the README of
# https://github.com/qhfan/RMT (Baidu, with an access code).
custom_imports = dict(imports=['mmrest'], allow_failed_imports=False)

backbone = dict(type='RMT', arch='l', norm_cfg=dict(type='SyncBN', requires_grad=True))
channels = [112, 224, 448, 640]
