"""MMCV ops on torchvision and torch, for an mmcv without compiled ops.

mmcv-lite contains ``mmcv.ops`` but not the compiled module ``mmcv._ext`` that it calls.
:func:`install` provides :mod:`mmrest.operators.ext` instead. Compiled ops, if present, are found
first and used.
"""

import importlib.util
import os
import sys
from importlib import metadata
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, Optional

from . import float32  # noqa: F401, registers

ENVIRONMENT_VARIABLE = 'MMREST_OPERATORS'
CHOICES = ('auto', 'off')

_MODULE = 'mmcv._ext'
_FILE = Path(__file__).with_name('ext.py')


class _Finder(MetaPathFinder):
    """Last finder of ``sys.meta_path``, which finds ``mmcv._ext`` if no other does."""

    def find_spec(
        self, fullname: str, path: Any = None, target: Any = None
    ) -> Optional[ModuleSpec]:
        # Without torchvision mmcv has no ops, and there must be no spec: mmengine looks for it
        # before it imports mmcv.ops.
        if fullname != _MODULE or importlib.util.find_spec('torchvision') is None:
            return None
        return importlib.util.spec_from_file_location(fullname, _FILE)


def install() -> None:
    """Provide mmcv with torchvision's ops, unless ``MMREST_OPERATORS=off``.

    Raises:
        ValueError: the environment variable is not ``auto`` or ``off``.
    """
    choice = os.environ.get(ENVIRONMENT_VARIABLE) or 'auto'
    if choice not in CHOICES:
        raise ValueError(f'{ENVIRONMENT_VARIABLE} is {choice!r}; use {" or ".join(CHOICES)}')
    if choice == 'auto' and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def describe() -> str:
    """Return which ops mmcv uses in this process, as one line for a log."""
    spec = importlib.util.find_spec(_MODULE)
    if spec is None:
        return 'none'
    if Path(spec.origin or '') != _FILE:
        return 'compiled'
    return f'torchvision {metadata.version("torchvision")}, no compiled ops'
