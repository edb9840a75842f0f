"""The backbones, and what detectors need around them."""

from . import float32
from .rest import ResT
from .rmt import RMT

__all__ = ['RMT', 'ResT', 'float32']
