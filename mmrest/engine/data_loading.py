"""Random states, and resumable data loading, independent of the number of workers."""

import itertools
import random
from contextlib import contextmanager
from functools import partial
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
import torch
from mmengine.dist import get_rank
from torch.utils.data import DataLoader, Dataset, Sampler

from .signals import begin_worker, blocked_sigterm


def random_states(with_gpu: bool = True) -> Dict[str, Any]:
    """Return the states of the generators, in types that checkpoints support."""
    states = dict(
        python=random.getstate(), numpy=np.random.get_state(), torch=torch.get_rng_state()
    )
    if with_gpu and torch.cuda.is_initialized():
        states['cuda'] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: Dict[str, Any]) -> None:
    """Restore the states of :func:`random_states`."""
    random.setstate(states['python'])
    np.random.set_state(states['numpy'])
    torch.set_rng_state(states['torch'].cpu())
    if 'cuda' in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states['cuda'].cpu())


@contextmanager
def kept_random_states(with_gpu: bool = True) -> Iterator[Dict[str, Any]]:
    """Yield the random states, and restore them at the end of the context."""
    states = random_states(with_gpu)
    try:
        yield states
    finally:
        set_random_states(states)


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Seed the generators of the CPU, which data pipelines use, and restore them at the end."""
    # Not those of a GPU: restored, they would give every sample the same random numbers.
    with kept_random_states(with_gpu=False):
        seeds = np.random.SeedSequence(numbers).generate_state(4)
        random.seed(int(seeds[0]) << 32 | int(seeds[1]))
        np.random.seed(seeds)
        torch.default_generator.manual_seed(int(seeds[2]) << 31 | int(seeds[3]) >> 1)
        yield


ENDLESS = ('InfiniteSampler', 'MultiSourceSampler')
"""Class names of samplers of mmengine and mmdet whose epochs do not end."""


class Draw(NamedTuple):
    """Index of a sample, and the place of its draw: epoch, rank, batch, and position in it."""

    index: Any
    place: Tuple[int, ...]


class SeededDataset(Dataset):
    """Dataset whose random numbers depend only on the seed and the place of a draw.

    They do not depend on the worker, or on earlier samples, and differ if a sampler repeats an
    index. All other attributes come from the inner dataset.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self._inner = dataset
        self._seed = seed

    def __len__(self) -> int:
        return len(self._inner)

    def __getitem__(self, draw: Any) -> Any:
        if not isinstance(draw, Draw):  # a hook looks at a sample
            return self._inner[draw]
        with seeded(self._seed, *draw.place):
            return self._inner[draw.index]

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__') or name == '_inner':  # not unpickled yet
            raise AttributeError(name)
        return getattr(self._inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ('_inner', '_seed'):
            super().__setattr__(name, value)
        else:  # such as the pipeline, which hooks replace
            setattr(self._inner, name, value)


class ResumableBatchSampler(Sampler):
    """Batch sampler of :class:`Draw` that starts at any batch; it wraps one of indices."""

    def __init__(self, batch_sampler: Sampler) -> None:
        self.batch_sampler = batch_sampler
        self.skip = 0  # batches that the next epoch skips without loading them
        self.epoch = 0

    def __getattr__(self, name: str) -> Any:
        if name == 'batch_sampler':  # not unpickled yet
            raise AttributeError(name)
        return getattr(self.batch_sampler, name)

    @property
    def is_endless(self) -> bool:
        sampler = type(getattr(self.batch_sampler, 'sampler', None))
        return any(kind.__name__ in ENDLESS for kind in sampler.__mro__)

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[List[Draw]]:
        skip, self.skip = self.skip, 0
        batches = itertools.islice(self.batch_sampler, skip, None)
        for number, batch in enumerate(batches, start=skip):
            place = self.epoch, get_rank(), number
            yield [Draw(index, (*place, position)) for position, index in enumerate(batch)]


class ResumableLoader(DataLoader):
    """Copy of a loader with seeded samples that starts at any batch.

    Iterating draws no random numbers in the main process.
    """

    def __init__(self, loader: DataLoader, seed: int) -> None:
        same = ['num_workers', 'collate_fn', 'pin_memory', 'timeout']
        if loader.num_workers > 0:
            same += ['prefetch_factor', 'persistent_workers', 'multiprocessing_context']
        super().__init__(
            SeededDataset(loader.dataset, seed),
            batch_sampler=ResumableBatchSampler(loader.batch_sampler),
            worker_init_fn=partial(begin_worker, loader.worker_init_fn),
            **{name: getattr(loader, name) for name in same},
        )
        # Hooks such as mmpretrain's PreciseBNHook read them; torch refuses to set the attributes.
        vars(self).update(batch_size=loader.batch_size, sampler=loader.sampler)

    @property
    def seeds(self) -> Tuple[int, Optional[int]]:
        """Seeds of the samples' random numbers and of their order."""
        return self.dataset._seed, getattr(self.batch_sampler.sampler, 'seed', None)

    @seeds.setter
    def seeds(self, seeds: Tuple[int, Optional[int]]) -> None:
        self.dataset._seed, order_seed = seeds
        if order_seed is not None:
            self.batch_sampler.sampler.seed = order_seed

    def __iter__(self) -> Iterator[Any]:
        # A generator, so that no worker starts before the first batch is requested.
        with seeded(self.dataset._seed, self.batch_sampler.epoch), blocked_sigterm():
            batches = super().__iter__()
        yield from batches
