"""Safe reading, strict matching and atomic writing of weights; independent of nn.Module."""

from ..errors import CheckpointError
from .matching import match, summary
from .reading import read_checkpoint
from .weights import Weights, read_weights, weights_of
from .writing import check_writable, lock_folder, publish, remove_unfinished, write_atomically

__all__ = [
    'CheckpointError',
    'Weights',
    'check_writable',
    'lock_folder',
    'match',
    'publish',
    'read_checkpoint',
    'read_weights',
    'remove_unfinished',
    'summary',
    'weights_of',
    'write_atomically',
]
