"""Random states: save, restore, and seed temporarily."""

import random
from contextlib import contextmanager
from typing import Any, Dict, Iterator

import numpy as np
import torch

RandomStates = Dict[str, Any]


def random_states() -> RandomStates:
    """Return the states of all generators, in types that checkpoints support."""
    states = dict(
        python=random.getstate(), numpy=np.random.get_state(), torch=torch.get_rng_state()
    )
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states['cuda'] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: RandomStates) -> None:
    """Restore what :func:`random_states` returned."""
    random.setstate(states['python'])
    np.random.set_state(states['numpy'])
    torch.set_rng_state(states['torch'].cpu())
    if 'cuda' in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states['cuda'].cpu())


@contextmanager
def kept_random_states() -> Iterator[None]:
    """Restore the random states at the end of the context."""
    states = random_states()
    try:
        yield
    finally:
        set_random_states(states)


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Seed the generators of the CPU, which data pipelines use, and restore them at the end.

    Args:
        numbers: not negative.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seeds = np.random.SeedSequence(numbers).generate_state(4)
    random.seed(int(seeds[0]) << 32 | int(seeds[1]))
    np.random.seed(seeds)
    torch.default_generator.manual_seed(int(seeds[2]) << 31 | int(seeds[3]) >> 1)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
