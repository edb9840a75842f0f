"""The attention kernels: pure functions of tensors that import torch alone."""

from .emsa import emsa
from .masa import decay_table, masa_axial, masa_full, rotary_tables, rotate

__all__ = ['decay_table', 'emsa', 'masa_axial', 'masa_full', 'rotary_tables', 'rotate']
