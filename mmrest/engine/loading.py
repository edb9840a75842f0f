"""Training data that can be gone on with in the middle, the same for any number of workers."""

import itertools
from functools import partial
from typing import Any, Iterator, List, NamedTuple, Optional, Tuple

from torch.utils.data import DataLoader, Dataset, Sampler

from .children import begin_worker, held_sigterm
from .randomness import kept_random_states, seeded


class Draw(NamedTuple):
    """What a sampler gives for a sample, and the pass over the data in which it does."""

    index: Any
    epoch: int


class SeededDataset(Dataset):
    """Has the random numbers of a sample depend on seed, epoch and index alone.

    Which worker loads it, and what was loaded before, does not matter then. Everything else is
    the inner data set's.

    Args:
        dataset: the data set.
        seed: of the run.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> Any:
        # Samplers of videos give the number of a frame too.
        numbers = draw.index if isinstance(draw.index, (tuple, list)) else [draw.index]
        with seeded(self.seed, draw.epoch, *map(int, numbers)):
            return self.dataset[draw.index]

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__') or name == 'dataset':  # which a pickle does not hold yet
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ('dataset', 'seed'):
            super().__setattr__(name, value)
        else:  # such as the pipeline, which hooks exchange
            setattr(self.dataset, name, value)


class ResumableBatchSampler(Sampler):
    """Batches of :class:`Draw`, from any batch on.

    Args:
        batch_sampler: gives the batches of indices.
    """

    def __init__(self, batch_sampler: Sampler) -> None:
        self.batch_sampler = batch_sampler
        self.skip = 0
        """Batches that the next pass leaves out; their samples are not loaded."""

    @property
    def sampler(self) -> Sampler:
        """What gives the indices, and is told of the epoch."""
        return self.batch_sampler.sampler

    @property
    def is_endless(self) -> bool:
        """Whether it goes on after a pass over the data, as mmengine's InfiniteSampler does."""
        return hasattr(self.sampler, 'set_epoch') and not hasattr(self.sampler, 'epoch')

    @property
    def batch_size(self) -> int:
        """Samples of a batch."""
        return self.batch_sampler.batch_size

    @property
    def drop_last(self) -> bool:
        """Whether a last batch of fewer samples is left out."""
        return self.batch_sampler.drop_last

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[List[Draw]]:
        skip, self.skip = self.skip, 0
        batches = itertools.islice(self.batch_sampler, skip, None)
        for number, batch in enumerate(batches, start=skip):
            epoch = self._epoch(number)
            yield [Draw(index, epoch) for index in batch]

    def _epoch(self, number: int) -> int:
        if not self.is_endless:
            return getattr(self.sampler, 'epoch', 0)
        processes = getattr(self.sampler, 'world_size', 1)
        return number * self.batch_size * processes // max(len(self.sampler), 1)


class ResumableLoader(DataLoader):
    """A loader like another one, whose samples are seeded and which begins at any batch.

    To iterate draws no random number of the main process.

    Args:
        loader: the other one.
        seed: of the run.
    """

    def __init__(self, loader: DataLoader, seed: int) -> None:
        workers = {}
        if loader.num_workers > 0:
            workers = dict(
                prefetch_factor=loader.prefetch_factor,
                persistent_workers=loader.persistent_workers,
                multiprocessing_context=loader.multiprocessing_context,
            )
        super().__init__(
            SeededDataset(loader.dataset, seed),
            batch_sampler=ResumableBatchSampler(loader.batch_sampler),
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=partial(begin_worker, loader.worker_init_fn),
            **workers,
        )

    @property
    def seeds(self) -> Tuple[int, Optional[int]]:
        """The seeds of what is drawn for a sample and of the order of the samples."""
        return self.dataset.seed, getattr(self.batch_sampler.sampler, 'seed', None)

    @seeds.setter
    def seeds(self, seeds: Tuple[int, Optional[int]]) -> None:
        self.dataset.seed, of_order = seeds
        if of_order is not None:
            self.batch_sampler.sampler.seed = of_order

    def __iter__(self) -> Iterator[Any]:
        # A generator, so that no worker starts before the first batch is asked for.
        with kept_random_states(), held_sigterm():
            batches = super().__iter__()
        yield from batches

    def close(self) -> None:
        """End the workers that persist.

        Python's collector of cycles ends their queues first, and torch then waits five seconds
        for each worker.
        """
        self._iterator = None
