"""The types that a checkpoint may contain; everything else in a pickle is refused.

torch's weights-only unpickler reads tensors and plain containers. Added are the types that
training scripts save with the weights: mmengine's logs and schedules, and the arguments of the
official ResT and RMT scripts. None of them executes anything of the file.
"""

import argparse
import codecs
import datetime
import pathlib
import pickle
import re
from _compat_pickle import IMPORT_MAPPING
from collections import Counter, OrderedDict
from types import SimpleNamespace
from typing import Any, ClassVar, Dict, List

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

_MULTIARRAY = ('numpy.core.multiarray', 'numpy._core.multiarray')
"""Package of numpy's pickle functions, before version 2 and since."""


def _harmless_method(owner: type, name: str) -> Any:
    """Replace ``getattr``, which pickle writes for the methods that mmengine saves."""
    of_history = owner is HistoryBuffer and not name.startswith('_')
    if of_history or (owner is OneCycleParamScheduler and name.startswith('_annealing_')):
        return getattr(owner, name)
    raise pickle.UnpicklingError(f'GLOBAL builtins.getattr({owner!r}, {name!r})')


def _numpy_types() -> List[Any]:
    array = np.zeros(1)
    scalar_rebuilder = np.float64(0).__reduce__()[0]
    dtypes = {type(np.dtype(code)) for code in '?bBhHiIlLqQefd'}
    types = [np.ndarray, np.dtype, *sorted(dtypes, key=lambda dtype: dtype.__name__)]
    for function in (array.__reduce__()[0], scalar_rebuilder):
        for package in _MULTIARRAY:
            types.append((function, f'{package}.{function.__name__}'))
    return types


NUMPY: List[Any] = [(codecs.encode, '_codecs.encode'), *_numpy_types()]
"""Arrays and numbers of numpy; an entry is a type, or a replacement and the name it has."""

RUNS: List[Any] = [
    *NUMPY,
    Counter,
    HistoryBuffer,
    ConfigDict,
    OneCycleParamScheduler,
    (_harmless_method, 'builtins.getattr'),
    argparse.Namespace,
    SimpleNamespace,
    datetime.date,
    datetime.datetime,
    datetime.timedelta,
    (frozenset, 'builtins.frozenset'),
    # The operating system on which a file was written does not matter.
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
"""What training scripts save with the weights."""


def named(types: List[Any]) -> Dict[str, Any]:
    """Return the entries of such a list by their names in a pickle."""
    return {
        entry[1] if isinstance(entry, tuple) else f'{entry.__module__}.{entry.__qualname__}': (
            entry[0] if isinstance(entry, tuple) else entry
        )
        for entry in types
    }


class _Dtype:
    """Replaces ``numpy.dtype``: only numbers and strings of fixed size.

    A dtype of objects, or one whose state a file sets, would turn bytes into an array of pointers.
    """

    def __init__(self, code: str, *_: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r'[biufcUS]\d+', code):
            raise pickle.UnpicklingError(f'GLOBAL numpy.dtype({code!r})')
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Replaces a numpy array while it is unpickled."""

    def __init__(self, *_: Any) -> None:
        self.array = np.zeros(0)

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, by_columns, raw = state
        self.array = _from_bytes(raw, dtype).reshape(shape, order='F' if by_columns else 'C')


def _from_bytes(raw: Any, dtype: _Dtype) -> np.ndarray:
    raw = raw.encode('latin1') if isinstance(raw, str) else raw  # by Python 2
    return np.frombuffer(raw, dtype.dtype).copy()


def _scalar(dtype: _Dtype, raw: Any) -> Any:
    return _from_bytes(raw, dtype)[0]


_STAND_INS: Dict[str, Any] = {'numpy.dtype': _Dtype, 'numpy.ndarray': _Array}
for _package in _MULTIARRAY:
    _STAND_INS[f'{_package}._reconstruct'] = _Array
    _STAND_INS[f'{_package}.scalar'] = _scalar


def built(content: Any) -> Any:
    """Return what was read, with arrays in place of :class:`_Array`."""
    if isinstance(content, _Array):
        return content.array
    if isinstance(content, dict):
        for key in content:
            content[key] = built(content[key])
    elif isinstance(content, list):
        content[:] = map(built, content)
    elif type(content) is tuple:
        return tuple(map(built, content))
    elif isinstance(content, HistoryBuffer):
        built(content.__dict__)
    return content


class _Unpickler(pickle.Unpickler):
    """Reads what torch's unpickler would read."""

    allowed: ClassVar[Dict[str, Any]] = {
        **torch._weights_only_unpickler._get_allowed_globals(),
        **named(RUNS),
        **_STAND_INS,
    }

    def find_class(self, module: str, name: str) -> Any:
        # torch.save writes names of Python 2.
        full_name = f'{IMPORT_MAPPING.get(module, module)}.{name}'
        if full_name not in self.allowed:
            raise pickle.UnpicklingError(f'GLOBAL {full_name}')
        return self.allowed[full_name]


# The interface of a pickle module that torch.load uses.
guarded_pickle = SimpleNamespace(
    __name__='mmrest_guarded_pickle',
    Unpickler=_Unpickler,
    load=lambda file, **kwargs: _Unpickler(file, **kwargs).load(),
)
"""Replaces torch's weights-only unpickler before 2.6, which has no allowlist API."""
