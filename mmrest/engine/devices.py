"""Devices that are there."""

from typing import Union

import torch

from .config import first_line
from .errors import UsageError


def usable_device(name: Union[str, torch.device]) -> torch.device:
    """A device that can compute.

    Raises:
        UsageError: torch knows no such device, it is not there, or it holds no values.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except Exception as error:  # of the backend of a device
        raise UsageError(
            f'device {name} cannot be used: {first_line(error)}; cpu always can'
        ) from error
    if device.type == 'meta':
        raise UsageError('device meta cannot be used: it holds no values; cpu always can')
    return device
