"""Synthetic datasets, and colours of classes."""
