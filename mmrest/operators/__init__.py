"""MMCV's compiled operators from torchvision and torch, for an mmcv that has none.

mmcv-lite contains ``mmcv.ops`` but not the compiled module ``mmcv._ext`` that it calls.
:func:`install` offers :mod:`mmrest.operators.ext` in its place. Compiled operators, if present,
are found first and stay in use.
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
    """Finds ``mmcv._ext`` when nothing else does, as it is the last one to be asked."""

    def find_spec(
        self, fullname: str, path: Any = None, target: Any = None
    ) -> Optional[ModuleSpec]:
        # Without torchvision mmcv has no operators, and has to look like it: mmengine asks for
        # this spec before it imports mmcv.ops.
        if fullname != _MODULE or importlib.util.find_spec('torchvision') is None:
            return None
        return importlib.util.spec_from_file_location(fullname, _FILE)


def install() -> None:
    """Offer torchvision's operators to mmcv, unless ``MMREST_OPERATORS=off``.

    Raises:
        ValueError: the environment variable is neither ``auto`` nor ``off``.
    """
    choice = os.environ.get(ENVIRONMENT_VARIABLE) or 'auto'
    if choice not in CHOICES:
        raise ValueError(f'{ENVIRONMENT_VARIABLE} is {choice!r}; use {" or ".join(CHOICES)}')
    if choice == 'auto' and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def describe() -> str:
    """Return which operators mmcv uses in this process, as one line for a log."""
    spec = importlib.util.find_spec(_MODULE)
    if spec is None:
        return 'none'
    if Path(spec.origin or '') != _FILE:
        return 'compiled'
    return f'torchvision {metadata.version("torchvision")}, nothing compiled'
