# RMT-DeiT-S, an ablation network of the paper, after DeiT-S: one stage of 16x16 patches with full
# MaSA. It has no batch norm; drop path 0.1, which is DeiT's, and the other fields are those of the
# arch.
# There are no released weights: pretrain it on ImageNet first.
custom_imports = dict(imports=['mmrest'], allow_failed_imports=False)

backbone = dict(type='RMT', arch='deit_s')
channels = [384]
