"""Backbones."""

from .rest import ResT
from .rmt import RMT

__all__ = ['RMT', 'ResT']
