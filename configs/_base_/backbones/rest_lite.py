# ResT-Lite, with the fields of its arch (drop path 0.1) and BN as in the official code.
# ImageNet weights: ResTv1-Lite in the README of
# https://github.com/wofmanaf/ResT (Google Drive, Baidu).
custom_imports = dict(imports=['mmrest'], allow_failed_imports=False)

backbone = dict(type='ResT', arch='lite', norm_cfg=dict(type='BN', requires_grad=True))
channels = [64, 128, 256, 512]
