"""Attention of both papers, as functions of tensors; requires only torch, and Triton on GPUs."""

from .dispatch import BACKENDS, forced_backend, observed, use_backend
from .emsa import emsa, emsa_reference
from .masa import masa, masa_axial_reference, masa_full_reference
from .masa.decay import PositionTables, RelPos2d, position_tables
from .norm import layer_norm

__all__ = [
    'BACKENDS',
    'PositionTables',
    'RelPos2d',
    'emsa',
    'emsa_reference',
    'forced_backend',
    'layer_norm',
    'masa',
    'masa_axial_reference',
    'masa_full_reference',
    'observed',
    'position_tables',
    'use_backend',
]
