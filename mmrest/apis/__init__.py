"""mmrest from Python: inference, pictures of what a run has learnt, and what networks take."""

from .inferencer import Inferencer, inference

__all__ = ['Inferencer', 'inference']
