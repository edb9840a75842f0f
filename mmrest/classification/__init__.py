"""What classification takes from mmpretrain; the configs name this package in custom_imports.

Nothing else in mmrest imports it, so that mmpretrain is needed for classification alone.
"""

from .classifier import ReleasedClassifier
from .pictures import ClassPicturesHook
from .token_labelling import TokenLabelClassifier, TokenLabelHead
from .token_maps import LoadTokenLabels

__all__ = [
    'ClassPicturesHook',
    'LoadTokenLabels',
    'ReleasedClassifier',
    'TokenLabelClassifier',
    'TokenLabelHead',
]
