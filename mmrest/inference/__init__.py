"""Inference: images and videos in, predictions and visualizations out."""

from .inferencer import Inferencer, inference

__all__ = ['Inferencer', 'inference']
