"""Reading a file of weights: nothing of it is run, and one line says why it cannot be read."""

import contextlib
import os.path as osp
import pickle
import re
import zipfile
from typing import Any

import torch
from mmengine.fileio import get_local_path

from .allowlist import RUNS, ArraysUnpickler, built, guarded_pickle
from .errors import CheckpointError

_TORCH_LEGACY = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'
"""How torch.save's files of before torch 1.6 begin."""

_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
"""The first thing that is pickled in such a file, in whatever protocol."""


def read_checkpoint(path: str, map_location: Any = 'cpu') -> Any:
    """Read a file that ``torch.save`` or safetensors wrote, or a pickle of numpy's arrays.

    What is pickled passes torch's weights-only guard. Besides tensors and containers that lets
    through the types of :mod:`.allowlist`; no other type is built and nothing of the file is run.

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
        start = file.read(len(_TORCH_LEGACY))
    if start[8:9] == b'{':  # the length of a JSON header precedes it
        return _read_safetensors(path, map_location)
    if start.startswith(b'\x80') and start != _TORCH_LEGACY:
        with open(path, 'rb') as file:
            content = ArraysUnpickler(file).load()
        if content != _TORCH_MAGIC:
            return built(content)
    if start.startswith(b'PK'):
        _check_archive(path)
    if _torch_can_be_told_of_types():
        with torch.serialization.safe_globals(RUNS):
            return torch.load(path, map_location=map_location, weights_only=True)
    return built(
        torch.load(
            path, map_location=map_location, pickle_module=guarded_pickle, weights_only=False
        )
    )


def _torch_can_be_told_of_types() -> bool:
    """Whether torch's guard takes a list of types in which one may stand in for another."""
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
    """Look at a zip file before torch does.

    Raises:
        CheckpointError: it would unpack to more than it is long, though torch.save compresses
            nothing; or it is a TorchScript program, which torch would run.
    """
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
        names = archive.namelist()
    if any(name.rpartition('/')[2] == 'constants.pkl' for name in names):
        raise CheckpointError(
            'is refused: it is a TorchScript program; save the state dict of the model it was '
            'made from'
        )
    if unpacked > osp.getsize(path):
        raise CheckpointError(
            f'is refused: its {osp.getsize(path)} bytes would unpack to {unpacked}, and '
            'torch.save compresses nothing; save its state dict again'
        )


def _unreadable(reason: str) -> str:
    return (
        'cannot be read as a checkpoint: it is empty, truncated or not what torch.save '
        f'writes; fetch or save it again ({reason})'
    )


def _refusal(error: str) -> str:
    blocked = re.search(r'GLOBAL (\S+)|function (\S+)|<class \'(\S+)\'>', error)
    if blocked is None:
        reason = error.split('WeightsUnpickler error:')[-1].strip().split('\n')[0]
        return _unreadable(reason)
    name = next(filter(None, blocked.groups()))
    return (
        f'is refused: it would build a {name}, and only tensors, plain containers and what '
        'programs of training log are read; save its state dict alone, where the file comes '
        'from and is trusted: torch.save(model.state_dict(), PATH)'
    )
