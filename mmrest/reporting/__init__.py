"""Logs, curves, scores by class and by image, and the HTML page of a run."""
