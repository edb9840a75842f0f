# RMT-Swin-T, an ablation network of the paper, after Swin-T. It has no batch norm; drop path 0.2,
# which is Swin's, and the other fields are those of the arch.
# There are no released weights: pretrain it on ImageNet first.
custom_imports = dict(imports=['mmrest'], allow_failed_imports=False)

backbone = dict(type='RMT', arch='swin_t')
channels = [96, 192, 384, 768]
