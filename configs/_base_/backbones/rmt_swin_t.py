# RMT-Swin-T, an ablation network of the paper based on Swin-T: no batch norm, and the fields of
# its arch (drop path 0.2 as in Swin).
# There are no official weights: pretrain it on ImageNet first.
custom_imports = dict(imports=['mmrest'], allow_failed_imports=False)

backbone = dict(type='RMT', arch='swin_t')
channels = [96, 192, 384, 768]
