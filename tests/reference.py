"""Reference values of the official networks, and the weights for them.

The weights follow from names and shapes alone, so that no checkpoint is needed. The numbers were
written by the released code.
"""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

TOLERANCE = {'rmt': 1e-4, 'rest': 1e-3}
"""Tolerance relative to a map's standard deviation; ResT's instance norm magnifies rounding."""


def _numbers(name):
    path = Path(__file__).parent / 'data' / 'reference' / f'{name}.json'
    return json.loads(path.read_text())


KEYS = _numbers('checkpoint_keys')
"""Network of a detector -> tensor name in the checkpoint -> shape."""

FEATURE_MAPS = _numbers('feature_maps')
"""Network -> shape, mean, deviation and samples of its four maps for an image."""

CLASSIFICATION = {entry['name']: entry for entry in _numbers('classification')}
"""ImageNet network -> parameters, tensors outside the backbone, logits."""


def classifier_shapes(name):
    """Shapes in the file of an ImageNet network: of its backbone, and of its other tensors."""
    entry = CLASSIFICATION[name]
    absent = entry['not_in_classification_checkpoint']
    return {n: shape for n, shape in KEYS[name].items() if n not in absent}, entry['extra_keys']


def fill(shapes):
    """State dict for a mapping of names to shapes."""
    return {name: _tensor(name, tuple(shape)) for name, shape in shapes.items()}


def _tensor(name, shape):
    """Normal random numbers, seeded by the name and scaled for the tensor's role."""
    normal = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).standard_normal(shape)
    kind = name.split('.')[-1]
    if kind == 'running_var':
        normal = 1 + np.abs(normal) / 5
    elif kind in ('bias', 'running_mean') or kind.startswith('gamma'):
        normal = normal * 0.2
    elif kind == 'weight':
        inputs = math.prod(shape[1:])
        normal = 1 + normal * 0.2 if len(shape) == 1 else normal / math.sqrt(inputs)
    return torch.from_numpy(np.asarray(normal, dtype=np.float32))


def image(batch, height, width, seed=0):
    """Images of standard normal noise, (batch, 3, height, width)."""
    noise = np.random.Generator(np.random.PCG64(seed)).standard_normal((batch, 3, height, width))
    return torch.from_numpy(noise.astype(np.float32))


def assert_official(found, expected, family):
    """A tensor has the mean and deviation of the official code, and its evenly spaced samples."""
    tolerance = TOLERANCE[family] * expected['std']
    samples = torch.tensor(expected['samples'])
    places = torch.linspace(0, found.numel() - 1, len(samples)).round().long()
    torch.testing.assert_close(found.flatten()[places], samples, rtol=0, atol=tolerance)
    assert float(found.mean()) == pytest.approx(expected['mean'], abs=tolerance)
    assert float(found.std()) == pytest.approx(expected['std'], abs=tolerance)
