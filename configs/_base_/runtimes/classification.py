# Hooks of a classifier: EMA weights, with the statistics of batch norm, are evaluated and saved.
# The official code raises its EMA decay of 0.99996 to the power of batch / 512: 0.99992 for 1024.
# Its average spans 12,500 iterations, which small datasets never reach. Here it starts with a few
# iterations and has the same span after a third of ImageNet's schedule.
_base_ = 'mmpretrain::_base_/default_runtime.py'

default_hooks = dict(
    checkpoint=dict(type='AtomicCheckpointHook', max_keep_ckpts=3, save_best='accuracy/top1'),
    visualization=dict(type='ClassVisualizationHook'),
)
custom_hooks = [
    dict(
        type='EMAHook',
        ema_type='MomentumAnnealingEMA',
        gamma=10,
        momentum=8e-5,
        update_buffers=True,
        priority='ABOVE_NORMAL',
    ),
    dict(type='InvalidLossHook'),
]
