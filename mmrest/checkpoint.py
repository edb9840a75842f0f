"""Reading weights, safely and completely; knows dicts of tensors and nothing of modules."""

import codecs
import contextlib
import os.path as osp
import pickle
import re
from _compat_pickle import IMPORT_MAPPING
from collections import Counter
from types import SimpleNamespace
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Tuple

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.fileio import get_local_path
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from torch import Tensor

CONTAINERS = ('state_dict', 'model')
"""Where training programs keep the weights beside the rest of a checkpoint."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read or does not fit; the message is meant for the user."""


def read_checkpoint(path: str, map_location: Any = 'cpu') -> Any:
    """Read a file that ``torch.save`` wrote, under torch's weights-only guard.

    Besides tensors and containers the guard lets through what mmengine's Runner puts into its
    checkpoints: numbers of numpy and the history of logged values. No other type is built and
    nothing of the file is run. Where torch, before 2.6, cannot be told of these types, an
    unpickler that knows the same names and no others stands in for its guard.

    Args:
        path: a local path or any address that mmengine's file clients know.
        map_location: as for ``torch.load``.

    Raises:
        CheckpointError: there is no such file, it is no checkpoint, or it holds other types.
    """
    path = osp.expanduser(str(path))
    with contextlib.ExitStack() as stack:
        local = path
        if '://' in path:
            try:
                local = str(stack.enter_context(get_local_path(path)))
            except Exception as error:  # whatever the client of that storage raises
                raise CheckpointError(
                    f'checkpoint {path} cannot be fetched: {type(error).__name__}: {error}'
                ) from error
        if not osp.isfile(local):
            found = 'is a directory, not a file' if osp.isdir(local) else 'does not exist'
            raise CheckpointError(f'checkpoint {path} {found}')
        try:
            return _guarded_load(local, map_location)
        except pickle.UnpicklingError as error:
            raise CheckpointError(_refusal(path, str(error))) from error
        except Exception as error:  # a zip, a number or an index that is not as it should be
            reason = f'{type(error).__name__}: {error}'.strip().split('\n')[0]
            raise CheckpointError(_unreadable(path, reason)) from error


def read_state_dict(
    path: str, prefix: Optional[str] = None, map_location: Any = 'cpu'
) -> Dict[str, Tensor]:
    """Tensors of a checkpoint by name.

    Args:
        path: a file with a state dict, plain or under one of :data:`CONTAINERS`.
        prefix: keep the names that begin with ``prefix.``, without it.
        map_location: as for ``torch.load``.

    Raises:
        CheckpointError: as :func:`read_checkpoint`, or no tensor (of that prefix) is in it.
    """
    content = read_checkpoint(path, map_location)
    for container in CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(container), Mapping):
            content = content[container]
            break
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f'{path} holds a {type(content).__name__}, not a state dict, plain or under '
            f'{" or ".join(map(repr, CONTAINERS))}'
        )
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f'{path} holds no tensors; its entries are {_shortened(content)}')
    if prefix:
        start = prefix.rstrip('.') + '.'
        chosen = {n[len(start) :]: t for n, t in tensors.items() if n.startswith(start)}
        if not chosen:
            raise CheckpointError(
                f'{path} holds no tensor whose name begins with {start!r}; its tensors are '
                f'{_shortened(tensors)}'
            )
        return chosen
    return tensors


def match(
    source: str,
    tensors: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    is_optional: Callable[[str], bool] = lambda name: False,
) -> Tuple[Dict[str, Tensor], str]:
    """Choose from `tensors` those that are `wanted`, by name and shape: all of them or none.

    Args:
        source: what to call the file in messages.
        tensors: what the file holds.
        wanted: what is to be filled.
        is_optional: whether a name may be missing from the file.

    Returns:
        The tensors to load and a line that says how many of how many these are, which optional
        ones are missing and what of the file is left out.

    Raises:
        CheckpointError: a tensor is missing or has another shape.
    """
    # A counter of batches, which only a batch norm without momentum reads.
    required = [n for n in wanted if not n.endswith('num_batches_tracked')]
    matched = [n for n in required if n in tensors and tensors[n].shape == wanted[n].shape]
    misshapen = [
        f'{n} {tuple(tensors[n].shape)} instead of {tuple(wanted[n].shape)}'
        for n in required
        if n in tensors and tensors[n].shape != wanted[n].shape
    ]
    absent = [n for n in required if n not in tensors]
    missing = [n for n in absent if not is_optional(n)]
    left_out = [n for n in tensors if n not in wanted]
    figures = f'{len(matched)} of {len(required)} tensors'
    if misshapen or missing:
        faults = [f'{len(missing)} missing ({_shortened(missing)})'] if missing else []
        if misshapen:
            faults.append(f'{len(misshapen)} of another shape ({_shortened(misshapen)})')
        if len(absent) > len(missing):
            faults.append(f'{len(absent) - len(missing)} optional ones absent')
        raise CheckpointError(
            f'{source} does not fit: {figures} match, {", ".join(faults)}; the file has '
            f'{len(left_out)} tensors under other names ({_shortened(left_out)})'
            + _hint_at_prefix(missing, left_out)
        )
    report = f'{figures} loaded from {source}'
    if absent:
        report += f', {len(absent)} keep their values ({_shortened(absent)})'
    if left_out:
        report += f', {len(left_out)} of the file ignored ({_shortened(left_out)})'
    return {name: tensors[name] for name in wanted if name in tensors}, report


def _hint_at_prefix(missing: List[str], names: List[str]) -> str:
    """What to do when the names of a file differ from the missing ones by a prefix alone."""
    for name in names:
        prefix = name[: -len(missing[0])] if missing and name.endswith(missing[0]) else ''
        if prefix.endswith('.') and all(prefix + other in names for other in missing):
            return f"; those of prefix='{prefix[:-1]}' would"
    return ''


def _shortened(names: Iterable[str], most: int = 6) -> str:
    names = [str(name) for name in names]
    more = f', … {len(names) - most} more' if len(names) > most else ''
    return (', '.join(names[:most]) or 'none') + more


def _unreadable(path: str, reason: str) -> str:
    return (
        f'{path} cannot be read as a checkpoint: it is empty, truncated or not what torch.save '
        f'writes; fetch or save it again ({reason})'
    )


def _refusal(path: str, error: str) -> str:
    blocked = re.search(r'GLOBAL (\S+)|function (\S+)|type <class \'(\S+)\'>', error)
    if blocked is None:
        reason = error.split('WeightsUnpickler error:')[-1].strip().split('\n')[0]
        return _unreadable(path, reason)
    name = next(filter(None, blocked.groups()))
    return (
        f'{path} is refused: it would build a {name}, and only tensors, plain containers and '
        "the values that mmengine's Runner logs are read; save its state dict alone"
    )


def _harmless_method(owner: type, name: str) -> Any:
    """Stand-in for ``getattr``, which pickle writes for the methods that mmengine saves."""
    of_history = owner is HistoryBuffer and not name.startswith('_')
    if of_history or (owner is OneCycleParamScheduler and name.startswith('_annealing_')):
        return getattr(owner, name)
    raise pickle.UnpicklingError(f'GLOBAL builtins.getattr({owner!r}, {name!r})')


def _guarded_load(path: str, map_location: Any) -> Any:
    if _torch_can_be_told_of_types():
        with torch.serialization.safe_globals(_RUNNER_TYPES):
            return torch.load(path, map_location=map_location, weights_only=True)
    return torch.load(
        path, map_location=map_location, pickle_module=_allowlist_pickle, weights_only=False
    )


def _torch_can_be_told_of_types() -> bool:
    """Whether torch's guard takes a list of types in which one may stand in for another."""
    return tuple(int(part) for part in torch.__version__.split('.')[:2]) >= (2, 6)


class _AllowlistUnpickler(pickle.Unpickler):
    """Builds what torch's guard would build, and no other type."""

    def find_class(self, module: str, name: str) -> Any:
        # torch.save writes names of Python 2.
        full_name = f'{IMPORT_MAPPING.get(module, module)}.{name}'
        allowed = torch._weights_only_unpickler._get_allowed_globals()
        for known, value in [*_named_runner_types(), *allowed.items()]:
            if known == full_name:
                return value
        raise pickle.UnpicklingError(f'GLOBAL {full_name}')


def _named_runner_types() -> Iterator[Tuple[str, Any]]:
    for entry in _RUNNER_TYPES:
        if isinstance(entry, tuple):
            yield entry[1], entry[0]
        else:
            yield f'{entry.__module__}.{entry.__qualname__}', entry


# What torch.load takes for a module of pickle's kind.
_allowlist_pickle = SimpleNamespace(
    __name__='mmrest_allowlist_pickle',
    Unpickler=_AllowlistUnpickler,
    load=lambda file, **kwargs: _AllowlistUnpickler(file, **kwargs).load(),
)


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


# What mmengine's checkpoints hold besides tensors and plain containers.
_RUNNER_TYPES: List[Any] = [
    HistoryBuffer,
    ConfigDict,
    OneCycleParamScheduler,
    Counter,
    (_harmless_method, 'builtins.getattr'),
    (codecs.encode, '_codecs.encode'),
    *_numpy_types(),
]
