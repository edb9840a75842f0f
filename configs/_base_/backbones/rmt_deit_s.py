# RMT-DeiT-S, an ablation network of the paper based on DeiT-S: one stage of 16x16 patches with
# full MaSA, no batch norm, and the fields of its arch (drop path 0.1 as in DeiT).
# There are no official weights: pretrain it on ImageNet first.
custom_imports = dict(imports=['mmrest'], allow_failed_imports=False)

backbone = dict(type='RMT', arch='deit_s')
channels = [384]
