"""Safe checkpoint reading: no code of the file is executed."""

import contextlib
import hashlib
import os.path as osp
import pickle
import re
import shutil
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmengine.fileio import get_local_path

from ..errors import CheckpointError
from .allowlist import TYPES, guarded_pickle
from .writing import write_atomically

ZOOS = ('torchvision://', 'modelzoo:', 'open-mmlab:', 'openmmlab:', 'mmcls:')
"""Beginnings of names in the model zoos of torchvision and OpenMMLab."""


def read_checkpoint(path: str, map_location: Any = 'cpu') -> Any:
    """Read a file that ``torch.save`` or safetensors wrote.

    Pickles are read by torch's weights-only unpickler, extended with the types of
    :mod:`.allowlist`.

    Args:
        path: a local path or any URL that mmengine's file clients support. Downloads over http
            are kept in torch's hub folder.
        map_location: as for ``torch.load``.

    Raises:
        CheckpointError: the file is not found, not a checkpoint, or contains other types.
    """
    path = osp.expanduser(str(path))
    if path.startswith(ZOOS):  # usually left over from the config of a ResNet
        raise CheckpointError(
            f'{path}: this model zoo has no weights of ResT and RMT; drop the inherited init_cfg '
            '(_delete_=True) or pass --pretrained PATH'
        )
    with contextlib.ExitStack() as stack:
        kept = local = _kept_as(path) if path.startswith(('http://', 'https://')) else path
        if '://' in path and not osp.isfile(kept):
            try:
                if kept == path:
                    local = str(stack.enter_context(get_local_path(path)))
                else:
                    local = osp.join(stack.enter_context(TemporaryDirectory()), 'download')
                    torch.hub.download_url_to_file(path, local)
            except KeyError as error:
                raise CheckpointError(
                    f'checkpoint {path}: mmengine does not support {path.partition("://")[0]}://; '
                    'download the file and pass its path'
                ) from error
            except Exception as error:  # whatever the client of that storage raises
                raise CheckpointError(
                    f'checkpoint {path} cannot be fetched: {type(error).__name__}: {error}'
                ) from error
        if not osp.isfile(local):
            fault = 'is a directory, not a file' if osp.isdir(local) else 'does not exist'
            fault += '; correct the path (docs/model_zoo.md says where to get weights)'
            raise CheckpointError(f'checkpoint {path} {fault}')
        try:
            content = _read(local, map_location)
        except CheckpointError as error:
            raise CheckpointError(f'{path} {error}') from error
        except Exception as error:  # whatever a broken zip, JSON or pickle raises
            raise CheckpointError(_message(path, error)) from error
        if kept not in (path, local):
            with contextlib.suppress(OSError, CheckpointError):  # of a folder of other users
                Path(kept).parent.mkdir(parents=True, exist_ok=True)
                write_atomically(Path(kept), lambda temporary: shutil.copyfile(local, temporary))
        return content


def _kept_as(url: str) -> str:
    """Return the path under which a download is kept.

    As in torch, its name is the last part of the URL, if that has a hash; others may be repeated.
    """
    name = url.partition('?')[0].rpartition('/')[2]
    if not re.search(r'-[0-9a-f]{8,}\.', name):
        name = f'{hashlib.sha256(url.encode()).hexdigest()}.pth'
    return osp.join(torch.hub.get_dir(), 'checkpoints', name)


def _read(path: str, map_location: Any) -> Any:
    with open(path, 'rb') as file:
        start = file.read(9)
    if start[8:] == b'{':  # JSON header of safetensors, after its length
        try:
            from safetensors.torch import load_file
        except ImportError as error:
            raise CheckpointError('needs safetensors: pip install safetensors') from error
        if callable(map_location):
            raise CheckpointError('is a safetensors file, for which map_location must be a device')
        device = 'cpu' if map_location is None else map_location
        return {name: tensor.to(device) for name, tensor in load_file(path).items()}
    if start.startswith(b'PK'):
        _check_archive(path)
    if _torch_has_allowlist():
        with torch.serialization.safe_globals(TYPES):
            return torch.load(path, map_location=map_location, weights_only=True)
    guard = dict(pickle_module=guarded_pickle, weights_only=False)
    return torch.load(path, map_location=map_location, **guard)


def _torch_has_allowlist() -> bool:
    """Return True if torch's allowlist supports substitutes under the names of other types."""
    return tuple(int(part) for part in torch.__version__.split('.')[:2]) >= (2, 6)


def _check_archive(path: str) -> None:
    """Raise CheckpointError for a TorchScript archive, whose code torch would execute.

    Also for a compressed one: torch.save writes none, and it might expand to any size.
    """
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
        names = archive.namelist()
    if any(name.rpartition('/')[2] == 'constants.pkl' for name in names):
        raise CheckpointError('is a TorchScript program; save the state dict of its model')
    if size > osp.getsize(path):
        raise CheckpointError(
            f'is a compressed archive ({osp.getsize(path)} bytes expand to {size}), which '
            'torch.save never writes; save its state dict again'
        )


def _message(path: str, error: Exception) -> str:
    blocked = isinstance(error, pickle.UnpicklingError) and re.search(
        r'GLOBAL (\S+)|function (\S+)|<class \'(\S+)\'>', str(error)
    )
    if blocked:
        name = next(filter(None, blocked.groups()))
        return (
            f'refusing to load {path}: it contains a pickled {name}, which is not on the '
            'allowlist; if you trust the file, save only its state dict: '
            'torch.save(model.state_dict(), PATH)'
        )
    if 'deserialize object on' in str(error):  # the device of map_location, not of the file
        return f"{path} cannot be loaded onto this device; pass map_location='cpu' ({error})"
    reason = f'{type(error).__name__}: {str(error).split("WeightsUnpickler error:")[-1].strip()}'
    return (
        f'{path} cannot be read as a checkpoint: it is empty, truncated or not written by '
        f'torch.save; download or save it again, or use an earlier one ({reason.splitlines()[0]})'
    )
