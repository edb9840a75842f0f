# Runtime of classifiers on the synthetic shapes, by iterations.
_base_ = 'mmpretrain::_base_/default_runtime.py'

custom_hooks = [dict(type='InvalidLossHook')]
log_processor = dict(by_epoch=False)
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(
        type='AtomicCheckpointHook',
        by_epoch=False,
        interval=200,
        max_keep_ckpts=1,
        save_best='accuracy/top1',
    ),
    visualization=dict(type='ClassVisualizationHook'),
)
randomness = dict(seed=0)
