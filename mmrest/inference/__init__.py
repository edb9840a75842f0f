"""Inference: images and videos in, predictions and visualizations out."""
