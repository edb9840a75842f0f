"""What lies in ../shared beside the repository: reference numbers and small real data."""

import importlib.util
import json
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / 'shared'

needs_reference = pytest.mark.skipif(
    not (SHARED / 'reference').is_dir(), reason=f'no reference numbers at {SHARED}/reference'
)
needs_data = pytest.mark.skipif(
    not (SHARED / 'data').is_dir(), reason=f'no real photographs at {SHARED}/data'
)


def reference(name):
    """Content of a JSON file of reference numbers; nothing where there are none."""
    path = SHARED / 'reference' / f'{name}.json'
    return json.loads(path.read_text()) if path.is_file() else {}


def weights():
    """The module that makes the weights and images of the reference numbers."""
    path = SHARED / 'reference' / 'weights.py'
    spec = importlib.util.spec_from_file_location('reference_weights', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
