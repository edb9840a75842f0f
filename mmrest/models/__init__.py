"""The backbones, and what detectors and segmentors need around them."""

from . import float32, repeat
from .rest import ResT
from .rmt import RMT

__all__ = ['RMT', 'ResT', 'float32', 'repeat']
