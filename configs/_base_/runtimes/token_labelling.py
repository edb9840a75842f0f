# As in classification.py, but for the momentum of the EMA weights: the official code raises
# its decay of 0.99996 to the batch over 512, and a batch of 2048 makes that 0.99984.
_base_ = './classification.py'

custom_hooks = [dict(_base_.custom_hooks[0], momentum=1.6e-4), *_base_.custom_hooks[1:]]
