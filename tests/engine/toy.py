"""A toy run: random data, a model with dropout, and a metric."""

import itertools
import random

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from torch import nn

SAMPLES = 11
EPOCHS = dict(type='CheckpointHook', interval=1)
_NUMBERS = itertools.count()


@DATASETS.register_module(force=True)
class Numbers(BaseDataset):
    """Samples from all three generators, which record that they were loaded."""

    loaded: list = []  # noqa: RUF012

    def load_data_list(self):
        return [dict(number=number) for number in range(SAMPLES)]

    def prepare_data(self, index):
        self.loaded.append(index)
        drawn = [random.random(), np.random.rand(), float(torch.rand(()))]
        drawn = [0.5] * 3 if self.test_mode else drawn
        return dict(inputs=torch.tensor([index, *drawn]), index=index)

    def get_cat_ids(self, index):
        return [index % 2]


@MODELS.register_module(force=True)
class Toy(BaseModel):
    """A model with dropout and a batch norm."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 1))

    def forward(self, inputs, index, mode='tensor'):
        out = self.net(torch.stack(list(inputs)).float())
        return dict(loss=out.square().mean()) if mode == 'loss' else list(out)


@METRICS.register_module(force=True)
class Mean(BaseMetric):
    """Metric that uses a random number."""

    def process(self, data_batch, data_samples):
        torch.rand(3)
        self.results += [float(sample.mean()) for sample in data_samples]

    def compute_metrics(self, results):
        return dict(mean=float(np.mean(results)), deviation=float(np.std(results)))


def config(folder, endless=False, by_epoch=True, workers=0, checkpoint=None, **options):
    """Config of a run of 16 iterations, or 4 epochs; `options` override it."""
    loader = dict(num_workers=workers, persistent_workers=False, dataset=dict(type='Numbers'))
    sampler = dict(type='InfiniteSampler' if endless else 'DefaultSampler', shuffle=True)
    length = dict(max_epochs=4) if by_epoch else dict(max_iters=16, val_interval=4)
    cfg = Config(dict(
        model=dict(type='Toy'),
        work_dir=str(folder),
        launcher='none',
        train_dataloader=dict(loader, batch_size=3, sampler=sampler),
        val_dataloader=dict(
            loader, batch_size=4, sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=dict(type='Numbers', test_mode=True),
        ),
        train_cfg=dict(length, by_epoch=by_epoch),
        val_cfg={},
        val_evaluator=dict(type='Mean'),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-2)),
        param_scheduler=[dict(type='CosineAnnealingLR', by_epoch=False, T_max=16)],
        default_hooks=dict(
            checkpoint=checkpoint or dict(type='CheckpointHook', by_epoch=False, interval=1),
            logger=dict(type='LoggerHook', interval=1),
        ),
        default_scope='mmengine',
        randomness=dict(seed=3),
        # mmengine keeps one log and one message hub a name.
        experiment_name=f'run_{next(_NUMBERS)}',
    ))  # fmt: skip
    cfg.merge_from_dict(options)
    return cfg
