"""Marks for tests that need newer releases of torch."""

import pytest
import torch

VERSION = tuple(int(part) for part in torch.__version__.split('.')[:2])


def needs_torch(major, minor, what):
    """Return a mark that skips a test on older releases, with the reason."""
    return pytest.mark.skipif(
        (major, minor) > VERSION, reason=f'torch {torch.__version__} has no {what}'
    )


needs_float16 = needs_torch(2, 3, 'products of float16 on a CPU')
FLOAT16 = pytest.param(torch.float16, marks=needs_float16)
needs_onnx = needs_torch(2, 7, 'ONNX exporter for every size')
needs_compile = needs_torch(2, 3, 'compiler that takes own functions of autograd')
needs_simulated_gpu = needs_torch(2, 7, 'tensors of a GPU that is not there')
