"""Small real data in ../shared, next to the repository."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / 'shared'

needs_data = pytest.mark.skipif(
    not (SHARED / 'data').is_dir(), reason=f'no real photographs at {SHARED}/data'
)
