# What a run of a classifier does besides training: among others it averages the weights, batch
# norm's statistics too, and evaluates and saves the average. The released program raises its decay
# of 0.99996 to the batch over 512, and the batch of 1024 makes that 0.99992.
_base_ = 'mmpretrain::_base_/default_runtime.py'

default_hooks = dict(
    checkpoint=dict(max_keep_ckpts=3, save_best='accuracy/top1'),
    visualization=dict(type='ClassPicturesHook'),
)
custom_hooks = [
    dict(type='EMAHook', momentum=8e-5, update_buffers=True, priority='ABOVE_NORMAL'),
    dict(type='InvalidLossHook'),
]
