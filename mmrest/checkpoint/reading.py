"""Safe checkpoint reading: no code of the file is executed."""

import contextlib
import os.path as osp
import pickle
import re
import zipfile
from typing import Any

import torch
from mmengine.fileio import get_local_path

from .allowlist import RUNS, built, guarded_pickle
from .errors import CheckpointError


def read_checkpoint(path: str, map_location: Any = 'cpu') -> Any:
    """Read a file that ``torch.save`` or safetensors wrote.

    Pickles are read by torch's weights-only unpickler, extended with the types of
    :mod:`.allowlist`.

    Args:
        path: a local path or any URL that mmengine's file clients support.
        map_location: as for ``torch.load``.

    Raises:
        CheckpointError: the file is not found, not a checkpoint, or contains other types.
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
            return _read(local, map_location)
        except CheckpointError as error:
            raise CheckpointError(f'{path} {error}') from error
        except pickle.UnpicklingError as error:
            raise CheckpointError(f'{path} {_refusal(str(error))}') from error
        except Exception as error:  # a zip, a number or an index that is not as it should be
            reason = f'{type(error).__name__}: {error}'.strip().split('\n')[0]
            raise CheckpointError(f'{path} {_unreadable(reason)}') from error


def _read(path: str, map_location: Any) -> Any:
    with open(path, 'rb') as file:
        start = file.read(9)
    if start[8:] == b'{':  # the length of a JSON header precedes it
        return _read_safetensors(path, map_location)
    if start.startswith(b'PK'):
        _check_archive(path)
    if _torch_has_allowlist():
        with torch.serialization.safe_globals(RUNS):
            return torch.load(path, map_location=map_location, weights_only=True)
    return built(
        torch.load(
            path, map_location=map_location, pickle_module=guarded_pickle, weights_only=False
        )
    )


def _torch_has_allowlist() -> bool:
    """Return True if torch's unpickler takes types under the names of others."""
    return tuple(int(part) for part in torch.__version__.split('.')[:2]) >= (2, 6)


def _read_safetensors(path: str, map_location: Any) -> Any:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError('is read by safetensors: pip install safetensors') from error
    tensors = load_file(path)
    if map_location is None or str(map_location) == 'cpu':
        return tensors
    if callable(map_location):
        raise CheckpointError('is read by safetensors, which takes a device for map_location')
    return {name: tensor.to(map_location) for name, tensor in tensors.items()}


def _check_archive(path: str) -> None:
    """Check a zip file before torch reads it.

    Raises:
        CheckpointError: it is compressed, which torch.save never does, or it is a TorchScript
            program, which torch would execute.
    """
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
        names = archive.namelist()
    if any(name.rpartition('/')[2] == 'constants.pkl' for name in names):
        raise CheckpointError(
            'is refused: it is a TorchScript program; save the state dict of its model'
        )
    if unpacked > osp.getsize(path):
        raise CheckpointError(
            f'is refused: its {osp.getsize(path)} bytes would unpack to {unpacked}, and '
            'torch.save compresses nothing; save its state dict again'
        )


def _unreadable(reason: str) -> str:
    return (
        'cannot be read as a checkpoint: it is empty, truncated or not what torch.save '
        f'writes; download or save it again ({reason})'
    )


def _refusal(error: str) -> str:
    blocked = re.search(r'GLOBAL (\S+)|function (\S+)|<class \'(\S+)\'>', error)
    if blocked is None:
        reason = error.split('WeightsUnpickler error:')[-1].strip().split('\n')[0]
        return _unreadable(reason)
    name = next(filter(None, blocked.groups()))
    return (
        f'is refused: it would build a {name}, which is not on the allowlist; if you trust the '
        'file, save only its state dict where it comes from: torch.save(model.state_dict(), PATH)'
    )
