"""Size of the blocks in which attention maps are computed."""

from typing import Optional

import torch
from torch import Tensor

from .dispatch import are_static, in_graph

CPU_BLOCK_ELEMENTS = 2**20
"""4 MB in float32, which fits into the caches of a CPU."""

DEVICE_BLOCK_ELEMENTS = 2**25
"""128 MB in float32: on other devices, small blocks are not worth their kernel launches."""


def block_elements(device: torch.device) -> int:
    """Return the number of elements of a block of maps on `device`."""
    return CPU_BLOCK_ELEMENTS if device.type == 'cpu' else DEVICE_BLOCK_ELEMENTS


def refuse_unless_small(q: Tensor, keys: int, gpu_limit: int = 0) -> Optional[str]:
    """Refuse standard ops for maps so large that blocks are faster or need less memory.

    In inference on a CPU, for maps of up to half a block, calling the ops of a block takes longer
    than their arithmetic. In half precision, only blocks compute softmax and sums in float32.

    Queries are (..., d), with a number of keys each. In training on a GPU, the maps may have up to
    `gpu_limit` elements; it is 0 if blocks are always faster.
    """
    if in_graph() and not (q.is_cuda and are_static(*q.shape, keys)):  # reading a symbol fixes it
        return 'the network is being compiled or exported'
    limit, is_training = 0, torch.is_grad_enabled()
    if q.is_cuda and is_training:
        limit = gpu_limit
    elif q.device.type == 'cpu' and not is_training and q.dtype in (torch.float32, torch.float64):
        limit = CPU_BLOCK_ELEMENTS // 2
    if q.shape[:-1].numel() * keys <= limit:
        return None
    return f'the maps exceed {limit} elements' if limit else 'blocks are faster or more precise'
