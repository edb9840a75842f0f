# Runtime of detectors on the synthetic shapes, by iterations.
_base_ = 'mmdet::_base_/default_runtime.py'

custom_hooks = [dict(type='InvalidLossHook')]
log_processor = dict(by_epoch=False)
default_hooks = dict(
    logger=dict(interval=20, log_metric_by_epoch=False),
    checkpoint=dict(
        type='AtomicCheckpointHook',
        by_epoch=False,
        interval=180,
        max_keep_ckpts=1,
        save_best='coco/bbox_mAP',
    ),
)
