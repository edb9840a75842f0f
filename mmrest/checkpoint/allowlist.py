"""Types that a checkpoint may contain; all other pickled types are refused.

torch's weights-only unpickler reads tensors and plain containers. This allowlist adds types that
training scripts save with the weights: mmengine's logs and schedules, and the arguments of the
official ResT and RMT scripts. None of them executes code from the file.
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


def _harmless_method(owner: type, name: str) -> Any:
    """Replace ``getattr``, which pickle writes for the methods that mmengine saves."""
    is_history_method = owner is HistoryBuffer and not name.startswith('_')
    if is_history_method or (owner is OneCycleParamScheduler and name.startswith('_annealing_')):
        return getattr(owner, name)
    raise pickle.UnpicklingError(f'GLOBAL builtins.getattr({owner!r}, {name!r})')


class _Dtype:
    """Replacement for ``numpy.dtype``: only numbers and strings of fixed size.

    A dtype of objects, or one whose state a file sets, would turn bytes into an array of pointers.
    """

    def __init__(self, code: str, *_: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r'[biufcUS]\d+', code):
            raise pickle.UnpicklingError(f'GLOBAL numpy.dtype({code!r})')
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """Replacement for ``numpy.ndarray``, pickled as ndarray; only dtypes of :class:`_Dtype`.

    The constructor ignores its arguments, which could name a dtype of objects and their addresses.
    """

    def __new__(cls, *_: Any) -> '_Array':
        return super().__new__(cls, 0)

    def __setstate__(self, state: tuple) -> None:
        version, shape, dtype, by_columns, raw = state
        if not isinstance(dtype, _Dtype):
            raise pickle.UnpicklingError(f'GLOBAL numpy.dtype({dtype!r})')
        super().__setstate__((version, shape, dtype.dtype, by_columns, raw))

    def __reduce__(self) -> Any:
        return self.view(np.ndarray).__reduce__()


def _scalar(dtype: _Dtype, raw: Any) -> Any:
    raw = raw.encode('latin1') if isinstance(raw, str) else raw  # written by Python 2
    return np.frombuffer(raw, dtype.dtype)[0]


TYPES: List[Any] = [
    (_Dtype, 'numpy.dtype'),
    (_Array, 'numpy.ndarray'),
    *((_Array, f'{package}.multiarray._reconstruct') for package in ('numpy.core', 'numpy._core')),
    *((_scalar, f'{package}.multiarray.scalar') for package in ('numpy.core', 'numpy._core')),
    (codecs.encode, '_codecs.encode'),
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
    *((kind, f'builtins.{kind.__name__}') for kind in (complex, frozenset, set)),
    torch.device,
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
"""Types that training scripts save with the weights, or tuples of a substitute and a name."""


class _Unpickler(pickle.Unpickler):
    """Unpickler with torch's own allowlist, extended by :data:`TYPES`."""

    allowed: ClassVar[Dict[str, Any]] = {
        **torch._weights_only_unpickler._get_allowed_globals(),
        **{str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)},
        **{f'{t.__module__}.{t.__qualname__}': t for t in TYPES if isinstance(t, type)},
        **{t[1]: t[0] for t in TYPES if isinstance(t, tuple)},
    }

    def find_class(self, module: str, name: str) -> Any:
        # torch.save writes Python 2 names.
        full_name = f'{IMPORT_MAPPING.get(module, module)}.{name}'
        if full_name not in self.allowed:
            raise pickle.UnpicklingError(f'GLOBAL {full_name}')
        return self.allowed[full_name]


# The parts of a pickle module that torch.load uses.
guarded_pickle = SimpleNamespace(
    __name__='mmrest_guarded_pickle',
    Unpickler=_Unpickler,
    load=lambda file, **kwargs: _Unpickler(file, **kwargs).load(),
)
"""Replaces torch's weights-only unpickler before 2.6, which has no allowlist API."""
