"""The attention kernels: pure functions of tensors that import torch alone."""

from .backend import BACKENDS, forced_backend, in_graph, use_backend
from .emsa import emsa, emsa_reference
from .masa import (
    PositionTables,
    masa,
    masa_axial_reference,
    masa_full_reference,
    position_tables,
)

__all__ = [
    'BACKENDS',
    'PositionTables',
    'emsa',
    'emsa_reference',
    'forced_backend',
    'in_graph',
    'masa',
    'masa_axial_reference',
    'masa_full_reference',
    'position_tables',
    'use_backend',
]
