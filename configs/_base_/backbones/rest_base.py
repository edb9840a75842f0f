# ResT-Base, with the fields of its arch (drop path 0.2) and BN as in the official code.
# ImageNet weights: ResTv1-B in the README of
# https://github.com/wofmanaf/ResT (Google Drive, Baidu).
custom_imports = dict(imports=['mmrest'], allow_failed_imports=False)

backbone = dict(type='ResT', arch='base', norm_cfg=dict(type='BN', requires_grad=True))
channels = [96, 192, 384, 768]
