# Like classification.py, except for the momentum of the EMA weights. The official code raises its
# decay of 0.99996 to the power of batch / 512: 0.99984 for 2048.
_base_ = './classification.py'

custom_hooks = [dict(_base_.custom_hooks[0], momentum=1.6e-4), *_base_.custom_hooks[1:]]
