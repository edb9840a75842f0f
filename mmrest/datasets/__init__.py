"""Data sets that mmrest draws itself."""
