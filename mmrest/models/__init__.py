"""Backbones, and a neck that repeats their last map."""

from . import repeat
from .rest import ResT
from .rmt import RMT

__all__ = ['RMT', 'ResT', 'repeat']
