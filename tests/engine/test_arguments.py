"""Arguments that no part knows, and parts that take any."""

import pytest
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, METRICS

from mmrest.engine.arguments import check_arguments
from mmrest.engine.errors import UsageError


@DATASETS.register_module()
class Forwards(BaseDataset):
    """Hands on to its base what it does not know."""

    def __init__(self, *args, own=1, **kwargs):
        super().__init__(*args, **kwargs)


@METRICS.register_module()
class Swallows:
    """Takes any argument and forgets it."""

    def __init__(self, prefix=None, **kwargs):
        pass


def config(**parts):
    return Config(dict(default_scope='mmengine', **parts))


@pytest.mark.parametrize(
    'parts',
    [
        dict(train_dataloader=dict(batch_size=2, dataset=dict(type='Forwards', own=2, indices=4))),
        dict(train_evaluator=dict(type='Swallows', whatever=1)),
        dict(train_cfg=dict(by_epoch=True, max_epochs=3)),
        dict(train_cfg=dict(by_epoch=False, max_iters=3)),
        dict(train_cfg=dict(type='IterBasedTrainLoop', max_iters=3, val_interval=1)),
        dict(optim_wrapper=dict(
            type='OptimWrapper', optimizer=dict(type='AdamW', lr=1, fused=True), clip_grad=None,
            paramwise_cfg=dict(norm_decay_mult=0), constructor='DefaultOptimWrapperConstructor',
        )),
        dict(param_scheduler=[dict(type='LinearLR', start_factor=1, convert_to_iter_based=True)]),
        dict(custom_hooks=[dict(type='EMAHook', momentum=1e-4, priority=49)]),
        dict(custom_hooks=[dict(type='NobodyKnows', x=1)]),
    ],
)  # fmt: skip
def test_fine(parts):
    check_arguments(config(**parts), ('train',))


@pytest.mark.parametrize(
    'parts, message',
    [
        (
            dict(train_dataloader=dict(dataset=dict(type='Forwards', indeces=4))),
            'train_dataloader.dataset.indeces: Forwards knows no such argument; did you mean ind',
        ),
        (dict(train_dataloader=dict(batch_sise=4)), 'did you mean batch_size'),
        (dict(train_cfg=dict(by_epoch=False, max_iter=3)), 'did you mean max_iters'),
        (dict(train_cfg=dict(max_epoch=3)), 'train_cfg.max_epoch: train_cfg knows no such arg'),
        (
            dict(custom_hooks=[dict(type='LoggerHook', xyz=3)]),
            r'custom_hooks\.0\.xyz: LoggerHook knows no such argument; leave it out',
        ),
    ],
)
def test_faults(parts, message):
    with pytest.raises(UsageError, match=message):
        check_arguments(config(**parts), ('train',))
