"""What classification takes from mmpretrain; the configs name this package in custom_imports.

Nothing else in mmrest imports it, so that mmpretrain is needed for classification alone.
"""

from .classifier import ReleasedClassifier
from .pictures import ClassPicturesHook

__all__ = ['ClassPicturesHook', 'ReleasedClassifier']
