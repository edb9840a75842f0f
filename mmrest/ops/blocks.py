"""Size of the blocks in which attention maps are computed."""

import torch

CPU_BLOCK_ELEMENTS = 2**20
"""4 MB in float32, which fits into the caches of a processor."""

DEVICE_BLOCK_ELEMENTS = 2**25
"""128 MB in float32: on other devices every operation has to be worth its launch."""


def block_elements(device: torch.device) -> int:
    """Return the elements of a block of maps on `device`."""
    return CPU_BLOCK_ELEMENTS if device.type == 'cpu' else DEVICE_BLOCK_ELEMENTS
