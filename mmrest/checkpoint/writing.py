"""Writing a checkpoint so that what was there before is lost only once the new one is complete."""

import contextlib
import errno
import hashlib
import os
import re
from pathlib import Path
from typing import Any, Callable, Dict, Mapping

import torch
from torch import Tensor

from .errors import CheckpointError

Writer = Callable[[str], None]
"""Writes a file of the name that it is given."""


def save_checkpoint(content: Any, path: str) -> None:
    """Write what ``torch.save`` writes, whole or not at all, see :func:`write_whole`."""

    def write(temporary: str) -> None:
        with open(temporary, 'wb') as file:
            torch.save(content, file)

    write_whole(Path(path), write)


def write_whole(path: Path, write: Writer) -> None:
    """Write to a temporary file beside `path`, have it reach the disk, and rename it.

    A process that is killed leaves either what was at `path` before or the new file, and beside
    it at most a file whose name begins with a point and ends in ``.part``.

    Args:
        path: where the file is to be; its folder exists.
        write: writes the content to a file of another name.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written to.
    """
    temporary = path.parent / f'.{path.name}.{os.getpid()}.part'
    try:
        write(str(temporary))
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        # torch's writer turns the error of the file into one of its own.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise CheckpointError(
            f'{path} cannot be written: {cause.strerror or cause}; every file that was there '
            'before is kept. Make room or choose another folder'
        ) from error


def remove_unfinished(folder: Path) -> None:
    """Remove what :func:`write_whole` left in a folder when its process was killed."""
    for path in folder.glob('.*.part'):
        number = re.fullmatch(r'\..+\.(\d+)\.part', path.name)
        if number and not _is_alive(int(number.group(1))):
            with contextlib.suppress(OSError):
                path.unlink()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    return True


def _sync(path: Path) -> None:
    """Have a file, or the names in a folder, reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot be asked this of a folder.
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def publish(path: Path, tensors: Mapping[str, Tensor], meta: Dict[str, Any]) -> Path:
    """Write weights to a file that has the beginning of its SHA-256 in its name.

    Args:
        path: name of the file but for that; safetensors where it ends so, else ``torch.save``
            writes ``meta`` and ``state_dict``.
        tensors: the weights.
        meta: what else to keep; safetensors takes texts alone, and the rest is left out there.

    Returns:
        ``STEM-<8 hexadecimal digits>SUFFIX``.

    Raises:
        CheckpointError: as :func:`write_whole`.
    """
    # Copies, so that no file holds the rest of a larger storage.
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}

    def write(temporary: str) -> None:
        if path.suffix == '.safetensors':
            try:
                from safetensors.torch import save_file
            except ImportError as error:
                raise CheckpointError(
                    f'{path} is written by safetensors: pip install safetensors'
                ) from error
            texts = {name: text for name, text in meta.items() if isinstance(text, str)}
            whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
            save_file(whole, temporary, metadata={'format': 'pt', **texts})
        else:
            with open(temporary, 'wb') as file:
                torch.save({'meta': meta, 'state_dict': tensors}, file)

    path.parent.mkdir(parents=True, exist_ok=True)
    unnamed = path.with_name(f'.{path.name}.{os.getpid()}.part')
    write_whole(unnamed, write)
    digest = hashlib.sha256()
    with open(unnamed, 'rb') as file:
        for part in iter(lambda: file.read(2**20), b''):
            digest.update(part)
    final = path.with_name(f'{path.stem}-{digest.hexdigest()[:8]}{path.suffix}')
    os.replace(unnamed, final)
    _sync(path.parent)
    return final
