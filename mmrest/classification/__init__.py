"""Extensions of mmpretrain; the configs import this package by custom_imports.

Nothing else in mmrest imports it, so only classification needs mmpretrain.
"""

from .classifier import ClassVisualizationHook, ReleasedClassifier
from .projection import RMTProjection, RMTTokenProjection
from .token_labelling import TokenLabelClassifier, TokenLabelHead
from .token_maps import LoadTokenLabels

__all__ = [
    'ClassVisualizationHook',
    'LoadTokenLabels',
    'RMTProjection',
    'RMTTokenProjection',
    'ReleasedClassifier',
    'TokenLabelClassifier',
    'TokenLabelHead',
]
