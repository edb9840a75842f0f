"""Attention of both papers, as functions of tensors; requires only torch, and Triton on GPUs."""

from .dispatch import (
    BACKENDS,
    chosen_backend,
    exactly_backend,
    forced_backend,
    in_graph,
    is_compiling,
    observed,
    use_backend,
)
from .emsa import emsa, emsa_reference
from .masa import masa, masa_axial_reference, masa_full_reference
from .masa.tables import PositionTables, RelPos2d, position_tables
from .norm import layer_norm

__all__ = [
    'BACKENDS',
    'PositionTables',
    'RelPos2d',
    'chosen_backend',
    'emsa',
    'emsa_reference',
    'exactly_backend',
    'forced_backend',
    'in_graph',
    'is_compiling',
    'layer_norm',
    'masa',
    'masa_axial_reference',
    'masa_full_reference',
    'observed',
    'position_tables',
    'use_backend',
]
