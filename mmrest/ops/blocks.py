"""How much of an attention map is computed at once."""

import torch

CPU_BLOCK_ELEMENTS = 2**20
"""4 MB in float32, which the caches of a processor hold."""

DEVICE_BLOCK_ELEMENTS = 2**25
"""128 MB in float32: on other devices every operation has to be worth its launch."""


def block_elements(device: torch.device) -> int:
    """Elements of a block of maps on `device`."""
    return CPU_BLOCK_ELEMENTS if device.type == 'cpu' else DEVICE_BLOCK_ELEMENTS
