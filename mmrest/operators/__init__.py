"""MMCV ops on torchvision and torch, for an mmcv without compiled ops.

mmcv-lite contains ``mmcv.ops`` but not the compiled module ``mmcv._ext`` that it calls.
:func:`install` makes mmcv look for it in this folder too, where ``_ext.py`` provides the ops.
Compiled ops, if present, are found first and used.
"""

import importlib.util
import os
from importlib import metadata
from pathlib import Path

import mmcv

from . import float32  # noqa: F401, registers

ENVIRONMENT_VARIABLE = 'MMREST_OPERATORS'

_FOLDER = Path(__file__).parent


def install() -> None:
    """Provide mmcv with torchvision's ops, unless ``MMREST_OPERATORS=off``.

    Raises:
        ValueError: the environment variable is not ``auto`` or ``off``.
    """
    choice = os.environ.get(ENVIRONMENT_VARIABLE) or 'auto'
    if choice not in ('auto', 'off'):
        raise ValueError(f'{ENVIRONMENT_VARIABLE} is {choice!r}; use auto or off')
    # Without torchvision mmcv has no ops, and there must be no spec: mmengine looks for it before
    # it imports mmcv.ops.
    if choice == 'auto' and importlib.util.find_spec('torchvision') is not None:
        mmcv.__path__.append(str(_FOLDER))


def describe() -> str:
    """Return which ops mmcv uses in this process, as one line for a log."""
    spec = importlib.util.find_spec('mmcv._ext')
    if spec is None:
        return 'none'
    if Path(spec.origin or '').parent != _FOLDER:
        return 'compiled'
    return f'torchvision {metadata.version("torchvision")}, no compiled ops'
