"""Python API: inference and network analysis."""

from ..analysis.attention_maps import attention_maps, decays
from ..analysis.complexity import count, count_parts
from ..analysis.features import principal_components, receptive_fields
from ..inference.inferencer import Inferencer, inference

__all__ = [
    'Inferencer',
    'attention_maps',
    'count',
    'count_parts',
    'decays',
    'inference',
    'principal_components',
    'receptive_fields',
]
