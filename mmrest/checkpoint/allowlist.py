"""The types that a checkpoint may hold; whatever else a pickle asks for is refused.

torch's weights-only guard knows tensors and plain containers. Added are the types that training
programs write beside the weights: mmengine's Runner logs and schedules, and the programs that
ResT and RMT were trained with keep their arguments. None of them runs anything of the file.
"""

import argparse
import codecs
import pathlib
import pickle
from _compat_pickle import IMPORT_MAPPING
from collections import Counter, OrderedDict
from types import SimpleNamespace
from typing import Any, BinaryIO, ClassVar, Dict, List

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler


def _harmless_method(owner: type, name: str) -> Any:
    """Stand-in for ``getattr``, which pickle writes for the methods that mmengine saves."""
    of_history = owner is HistoryBuffer and not name.startswith('_')
    if of_history or (owner is OneCycleParamScheduler and name.startswith('_annealing_')):
        return getattr(owner, name)
    raise pickle.UnpicklingError(f'GLOBAL builtins.getattr({owner!r}, {name!r})')


def _numpy_types() -> List[Any]:
    array = np.zeros(1)
    scalar_rebuilder = np.float64(0).__reduce__()[0]
    dtypes = {type(np.dtype(code)) for code in '?bBhHiIlLqQefd'}
    types = [np.ndarray, np.dtype, *sorted(dtypes, key=lambda dtype: dtype.__name__)]
    # The package of these two is numpy.core or numpy._core: a file may come from either.
    for function in (array.__reduce__()[0], scalar_rebuilder):
        for package in ('numpy.core.multiarray', 'numpy._core.multiarray'):
            types.append((function, f'{package}.{function.__name__}'))
    return types


NUMPY: List[Any] = [(codecs.encode, '_codecs.encode'), *_numpy_types()]
"""Arrays and numbers of numpy; each entry a type, or a pair of what stands in and a name."""

RUNS: List[Any] = [
    *NUMPY,
    Counter,
    HistoryBuffer,
    ConfigDict,
    OneCycleParamScheduler,
    (_harmless_method, 'builtins.getattr'),
    argparse.Namespace,
    # The working system of a file's maker does not matter.
    (pathlib.PurePosixPath, 'pathlib.PosixPath'),
    (pathlib.PurePosixPath, 'pathlib._local.PosixPath'),
    (pathlib.PureWindowsPath, 'pathlib.WindowsPath'),
    (pathlib.PureWindowsPath, 'pathlib._local.WindowsPath'),
    # Dicts of settings, of libraries that need not be installed.
    (OrderedDict, 'yacs.config.CfgNode'),
    (OrderedDict, 'fvcore.common.config.CfgNode'),
    (OrderedDict, 'detectron2.config.config.CfgNode'),
    (OrderedDict, 'mmcv.utils.config.ConfigDict'),
    (OrderedDict, 'addict.addict.Dict'),
]
"""What programs of training write beside the weights."""


def named(types: List[Any]) -> Dict[str, Any]:
    """The entries of such a list by the name that a pickle calls them."""
    return {
        entry[1] if isinstance(entry, tuple) else f'{entry.__module__}.{entry.__qualname__}': (
            entry[0] if isinstance(entry, tuple) else entry
        )
        for entry in types
    }


class _Unpickler(pickle.Unpickler):
    """Builds what it is told of, and no other type."""

    allowed: ClassVar[Dict[str, Any]] = {}

    def find_class(self, module: str, name: str) -> Any:
        # torch.save writes names of Python 2.
        full_name = f'{IMPORT_MAPPING.get(module, module)}.{name}'
        if full_name not in self.allowed:
            raise pickle.UnpicklingError(f'GLOBAL {full_name}')
        return self.allowed[full_name]


class ArraysUnpickler(_Unpickler):
    """Reads a pickle of numpy's arrays, which is how detectron2 publishes weights."""

    allowed: ClassVar[Dict[str, Any]] = {**named(NUMPY), 'collections.OrderedDict': OrderedDict}

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding='latin1')


class _RunUnpickler(_Unpickler):
    """Reads what torch's guard would read."""

    allowed: ClassVar[Dict[str, Any]] = {
        **torch._weights_only_unpickler._get_allowed_globals(),
        **named(RUNS),
    }


# What torch.load takes for a module of pickle's kind.
guarded_pickle = SimpleNamespace(
    __name__='mmrest_guarded_pickle',
    Unpickler=_RunUnpickler,
    load=lambda file, **kwargs: _RunUnpickler(file, **kwargs).load(),
)
"""Stands in for torch's guard where that, before 2.6, cannot be told of further types."""
