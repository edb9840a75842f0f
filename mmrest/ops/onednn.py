"""Products of float32 matrices on a CPU through oneDNN.

torch multiplies matrices by MKL and convolves by oneDNN, which is twice as fast on AMD
processors (``tools/benchmark.py`` prints both rates). A product of matrices is a 1x1 convolution.
"""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

SMALL = 20480
"""Elements of a map up to which torch convolves it by 1x1 kernels without oneDNN."""


def has_onednn() -> bool:
    """Whether torch may use oneDNN."""
    return torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled


def suits_onednn(elements: int) -> bool:
    """Whether torch takes oneDNN for the 1x1 convolution of a map of so many elements."""
    # It does not in a single thread.
    return elements > SMALL and torch.get_num_threads() > 1 and has_onednn()


def product(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    """``x weight^T + bias`` as a convolution, of whose result it returns a view.

    Args:
        x: (..., C).
        weight: (C', C).
        bias: (C',).

    Returns:
        (..., C').
    """
    out = F.conv2d(as_map(x), weight[:, :, None, None], bias)
    return out.permute(0, 2, 3, 1).view(*x.shape[:-1], len(weight))


def as_map(x: Tensor) -> Tensor:
    """(..., C) -> (1, C, 1, tokens), channels last, for any number of dimensions."""
    return x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)
