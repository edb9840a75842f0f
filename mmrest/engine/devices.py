"""Available devices."""

from typing import Union

import torch

from .config import first_line
from .errors import UsageError


def usable_device(name: Union[str, torch.device]) -> torch.device:
    """Return a device that can compute.

    Raises:
        UsageError: torch does not support the device, or it is not available.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except Exception as error:  # of the backend of a device
        raise UsageError(f'device {name} cannot be used: {first_line(error)}; use cpu') from error
    if device.type == 'meta':
        raise UsageError('device meta cannot be used: it holds no values; use cpu')
    return device
