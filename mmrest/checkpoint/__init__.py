"""Reading and writing weights, safely and completely; knows tensors and nothing of modules."""

from .errors import CheckpointError, shortened
from .matching import match, summary
from .reading import read_checkpoint
from .weights import Weights, read_weights, weights_of
from .writing import publish, remove_unfinished, write_whole

__all__ = [
    'CheckpointError',
    'Weights',
    'match',
    'publish',
    'read_checkpoint',
    'read_weights',
    'remove_unfinished',
    'shortened',
    'summary',
    'weights_of',
    'write_whole',
]
