"""The backbones, and what detectors, segmentors and classifiers need around them."""

from . import float32, repeat
from .projection import RMTProjection, RMTTokenProjection
from .rest import ResT
from .rmt import RMT

__all__ = ['RMT', 'RMTProjection', 'RMTTokenProjection', 'ResT', 'float32', 'repeat']
