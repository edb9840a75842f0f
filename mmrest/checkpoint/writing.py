"""Atomic writes: a file is replaced only when the new one is complete."""

import contextlib
import hashlib
import io
import os
from pathlib import Path
from typing import Any, Callable, Dict, Mapping

import torch
from torch import Tensor

from ..errors import CheckpointError, UsageError


def write_atomically(path: Path, write: Callable[[str], None]) -> None:
    """Write to a temporary file next to `path`, sync it to disk, and rename it.

    A process that is killed leaves either the previous file or the new one at `path`, and at most
    a hidden file that ends in ``.part`` next to it.

    Args:
        path: the file; its folder exists.
        write: writes the content to a file of the given name.

    Raises:
        CheckpointError: the disk is full or the folder is not writable.
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
        # torch's writer raises its own error while handling the OSError.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise CheckpointError(
            f'{path} cannot be written: {cause.strerror or cause}; existing files are kept. Free '
            'some space or choose another folder'
        ) from error


def remove_unfinished(folder: Path) -> None:
    """Remove temporary files that :func:`write_atomically` left in killed processes."""
    for path in folder.glob('.*.[0-9]*.part'):
        try:
            os.kill(int(path.suffixes[-2][1:]), 0)
        except ProcessLookupError:
            with contextlib.suppress(OSError):
                path.unlink()
        except (ValueError, OverflowError, OSError):  # not ours, or another user's process
            continue


def lock_folder(folder: Path, option: str = '--work-dir') -> None:
    """Create a folder and lock it until this process ends, where the file system supports locks.

    Each option has a lock of its own, so that inference may use the work dir of a training run.

    Raises:
        CheckpointError: another process has locked it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        file = os.open(folder / f'.{option[2:]}.lock', os.O_CREAT | os.O_RDWR, 0o666)  # stays open
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock's, not kept by children
    except BlockingIOError as error:
        raise CheckpointError(
            f'another run writes to {folder}; wait until it ends, or choose another {option}'
        ) from error
    except OSError:
        pass


def check_writable(folder: str, option: str = '--work-dir') -> Path:
    """Check that a folder, which an option sets, exists or can be created, and is writable.

    Returns:
        The nearest folder that exists; nothing is written.

    Raises:
        UsageError: a part of the path is not a folder, or not writable.
    """
    path = Path(os.path.expanduser(folder))  # unlike pathlib, keeps ~NAME of no user
    nearest = next(part for part in (path, *path.parents) if os.path.exists(part))
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        fault = 'not writable' if nearest.is_dir() else 'not a folder'
        shown = nearest if nearest.name else nearest.absolute()
        raise UsageError(f'{shown} is {fault}; use another {option}')
    return nearest


def _sync(path: Path) -> None:
    """Sync a file, or the names in a folder, to disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError:
        if not path.is_dir():  # some network file systems do not sync folders
            raise


def publish(path: Path, tensors: Mapping[str, Tensor], meta: Dict[str, Any]) -> Path:
    """Write weights to a file with the first 8 digits of its SHA-256 in its name.

    Args:
        path: file name without the digits; ``.safetensors``, or ``torch.save`` writes ``meta`` and
            ``state_dict``.
        tensors: the weights.
        meta: other information; safetensors keeps only its strings.

    Returns:
        ``STEM-<8 hexadecimal digits>SUFFIX``.

    Raises:
        CheckpointError: see :func:`write_atomically`, or safetensors is not installed.
    """
    # Clone, so that a view does not save its whole storage.
    layout = dict(memory_format=torch.contiguous_format)
    tensors = {name: tensor.detach().cpu().clone(**layout) for name, tensor in tensors.items()}
    if path.suffix == '.safetensors':
        try:
            from safetensors.torch import save
        except ImportError as error:
            raise CheckpointError(f'{path} needs safetensors: pip install safetensors') from error
        strings = {name: text for name, text in meta.items() if isinstance(text, str)}
        content = save(tensors, {'format': 'pt', **strings})
    else:
        buffer = io.BytesIO()
        torch.save({'meta': meta, 'state_dict': tensors}, buffer)
        content = buffer.getvalue()
    digits = hashlib.sha256(content).hexdigest()[:8]
    path.parent.mkdir(parents=True, exist_ok=True)
    final = path.with_name(f'{path.stem}-{digits}{path.suffix}')
    write_atomically(final, lambda temporary: Path(temporary).write_bytes(content))
    return final
