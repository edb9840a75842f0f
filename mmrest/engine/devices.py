"""Usable devices, and the peak memory of this process."""

import re
from pathlib import Path
from typing import Optional, Union

import torch
from torch import cuda

from ..errors import UsageError, first_line


def usable_device(name: Union[str, torch.device]) -> torch.device:
    """Return a device that can compute.

    Raises:
        UsageError: torch does not support the device, or it is not available.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except Exception as error:  # any error of the backend
        raise UsageError(f'device {name} cannot be used: {first_line(error)}; use cpu') from error
    if device.type == 'meta':
        raise UsageError('device meta cannot be used: it holds no values; use cpu')
    return device


def peak_memory_mb(on_gpu: Optional[bool] = None) -> Optional[float]:
    """Return the peak memory of this process, in MB; None on the CPU if the system is not Linux.

    Args:
        on_gpu: measure memory allocated on the GPU, not resident memory (default: if available).
    """
    if on_gpu or (on_gpu is None and cuda.is_available()):
        return cuda.max_memory_allocated() / 2**20
    # Unlike getrusage's, this peak does not begin with the memory of the parent process.
    return _status_mb('VmHWM')


def reset_peak_memory(on_gpu: bool) -> Optional[float]:
    """Reset the peak to the current memory use, and return it, in MB.

    Return None if the peak cannot be reset, as on systems other than Linux.
    """
    if on_gpu:
        cuda.reset_peak_memory_stats()
        return cuda.memory_allocated() / 2**20
    try:
        Path('/proc/self/clear_refs').write_text('5')
    except OSError:
        return None
    return _status_mb('VmRSS')


def _status_mb(field: str) -> Optional[float]:
    """Return a field of Linux's status of this process, in MB."""
    try:
        status = Path('/proc/self/status').read_text()
    except OSError:
        return None
    match = re.search(rf'^{field}:\s*(\d+) kB', status, re.M)
    return int(match[1]) / 2**10 if match else None
