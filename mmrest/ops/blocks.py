"""Size of the blocks in which attention maps are computed."""

import torch

CPU_BLOCK_ELEMENTS = 2**20
"""4 MB in float32, which fits into the caches of a CPU."""

DEVICE_BLOCK_ELEMENTS = 2**25
"""128 MB in float32: on other devices, small blocks do not pay for their kernel launches."""


def block_elements(device: torch.device) -> int:
    """Return the number of elements of a block of maps on `device`."""
    return CPU_BLOCK_ELEMENTS if device.type == 'cpu' else DEVICE_BLOCK_ELEMENTS
