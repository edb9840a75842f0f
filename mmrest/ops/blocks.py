"""Size of the blocks in which attention maps are computed."""

from typing import Optional

import torch
from torch import Tensor

from .dispatch import in_graph

CPU_BLOCK_ELEMENTS = 2**20
"""4 MB in float32, which fits into the caches of a CPU."""

DEVICE_BLOCK_ELEMENTS = 2**25
"""128 MB in float32: on other devices, small blocks do not pay for their kernel launches."""


def block_elements(device: torch.device) -> int:
    """Return the number of elements of a block of maps on `device`."""
    return CPU_BLOCK_ELEMENTS if device.type == 'cpu' else DEVICE_BLOCK_ELEMENTS


def refuse_unless_small(q: Tensor, elements: int, gpu_limit: int = 0) -> Optional[str]:
    """Refuse standard ops for maps that blocks compute faster, or with much less memory.

    In inference on a CPU, calling the ops of a block takes longer than half a block of maps.

    Args:
        q: queries.
        elements: number of elements of the maps.
        gpu_limit: largest number of elements in training on a GPU; 0 if blocks are always faster.
    """
    # In a graph, sizes may be symbols, and comparing them would fix them.
    if in_graph() or q.is_cuda != torch.is_grad_enabled():
        return 'they are for inference on a CPU and training on a GPU, outside of graphs'
    limit = gpu_limit if q.is_cuda else CPU_BLOCK_ELEMENTS // 2
    return 'its maps are too large' if elements > limit else None
