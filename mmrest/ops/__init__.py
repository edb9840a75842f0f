"""The attention kernels: pure functions of tensors that import torch alone."""

from .autocast import autocast_as_now, without_autocast
from .backend import (
    BACKENDS,
    chosen_backend,
    exactly_backend,
    forced_backend,
    in_graph,
    use_backend,
)
from .block import block_elements
from .emsa import emsa, emsa_reference
from .masa import masa, masa_axial_reference, masa_full_reference
from .positions import PositionTables, position_tables

__all__ = [
    'BACKENDS',
    'PositionTables',
    'autocast_as_now',
    'block_elements',
    'chosen_backend',
    'emsa',
    'emsa_reference',
    'exactly_backend',
    'forced_backend',
    'in_graph',
    'masa',
    'masa_axial_reference',
    'masa_full_reference',
    'position_tables',
    'use_backend',
    'without_autocast',
]
