# RMT-Swin-S, an ablation network of the paper based on Swin-S: no batch norm, and the fields of
# its arch (drop path 0.3 as in Swin).
# There are no official weights: pretrain it on ImageNet first.
custom_imports = dict(imports=['mmrest'], allow_failed_imports=False)

backbone = dict(type='RMT', arch='swin_s')
channels = [96, 192, 384, 768]
