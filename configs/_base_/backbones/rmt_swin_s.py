# RMT-Swin-S, an ablation network of the paper, after Swin-S. It has no batch norm; drop path 0.3,
# which is Swin's, and the other fields are those of the arch.
# There are no released weights: pretrain it on ImageNet first.
custom_imports = dict(imports=['mmrest'], allow_failed_imports=False)

backbone = dict(type='RMT', arch='swin_s')
channels = [96, 192, 384, 768]
