"""All patches of mmengine, and the private parts of mmengine that a run uses.

Tested with mmengine 0.10.7, its fork onedl-mmengine 0.10.12, and torch 2.1 to 2.15.
tests/engine/test_compat.py fails if one of these parts changes, and lists overridden methods.
"""

from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Optional, Tuple

import torch
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.fileio import LocalBackend, register_backend
from mmengine.fileio import io as fileio
from mmengine.runner import CheckpointLoader, Runner, checkpoint, runner

from ..checkpoint import CheckpointError, read_checkpoint, write_atomically
from ..shipped import find, folder

_get_cfg_path = Config._get_cfg_path


def get_cfg_path(cfg_path: str, filename: str) -> Tuple[str, Optional[str]]:
    """Resolve ``_base_ = 'mmrest::NAME'`` and ``'mmrest::NAME.py'``.

    mmengine looks only for OpenMMLab's packages, in folders, and not in editable installs.
    """
    if cfg_path.startswith('mmrest::'):
        return str(find(cfg_path) or folder() / cfg_path[len('mmrest::') :]), None
    if cfg_path.startswith('mmseg::') and find_spec('mmseg') is not None:
        MODULE2PACKAGE['mmseg'] = 'mmseg'  # not the distribution's name, which forks do not have
    return _get_cfg_path(cfg_path, filename)


class AtomicLocalBackend(LocalBackend):
    """LocalBackend whose writes are atomic.

    mmengine writes into the final file, so a killed process leaves a truncated checkpoint.
    """

    def put(self, obj: bytes, filepath: Any) -> None:
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda temporary: Path(temporary).write_bytes(obj))


def renamed(cfg: Config, filename: str) -> Config:
    """Return a copy of a config under another file name; to_dict makes its classes strings."""
    return Config(cfg._to_lazy_dict(), cfg.text, filename=filename)


def load_from_guarded(filename: str, map_location: Any = None) -> Any:
    """Load a checkpoint with the weights-only unpickler, as a loader for mmengine.

    mmengine logs the name of a loader after ``load_from_``. Its own loaders fail on its own
    checkpoints with torch >= 2.6 (mmengine#1655). With earlier versions, or over http, they
    execute code from the file. For the arguments, see :func:`mmrest.checkpoint.read_checkpoint`.

    Raises:
        CheckpointError: the file cannot be read, or is not a dict.
    """
    content = read_checkpoint(filename, map_location)
    if not isinstance(content, dict):
        raise CheckpointError(
            f'{filename} contains a {type(content).__name__}, not a checkpoint or a state dict'
        )
    if isinstance(content.get('meta'), dict):
        # When resuming, mmengine executes this text from older files as a Python config.
        content['meta'].pop('config', None)
    return content


def install_file_access() -> None:
    """Make mmengine find shipped configs, read checkpoints safely and write files atomically.

    Importing mmrest calls this, so that OpenMMLab's own tools can also read the checkpoints. A
    local file backend that a project has registered is kept.
    """
    Config._get_cfg_path = staticmethod(get_cfg_path)
    schemes = ['', 'http://', 'https://', 'pavi://', r'(\S+\:)?s3://', r'(\S+\:)?petrel://']
    CheckpointLoader.register_scheme(schemes, load_from_guarded, force=True)
    # mmengine resolves model zoo names to URLs, and passes them to this function.
    checkpoint.load_from_http = load_from_guarded
    if fileio.prefix_to_backends[''] is LocalBackend:
        register_backend('local', AtomicLocalBackend, force=True, prefixes='')
        fileio.backend_instances.clear()  # backends that were built earlier


def wrap_worker_init(wrapper: Callable[..., None]) -> None:
    """Make workers of loaders call `wrapper` with mmengine's worker_init_fn and its arguments."""
    runner.default_worker_init_fn = partial(wrapper, runner.default_worker_init_fn)


@contextmanager
def without_cuda_device() -> Iterator[None]:
    """Let mmengine's ``init_dist`` run without CUDA; it selects a GPU whatever the backend."""
    before, torch.cuda.set_device = torch.cuda.set_device, lambda device: None
    try:
        yield
    finally:
        torch.cuda.set_device = before


def use_parts(run: Runner, **parts: Any) -> None:
    """Set loaders, evaluators or loops of a run, before it builds its own."""
    for name, part in parts.items():
        setattr(run, f'_{name}', part)


def use_datasets(run: Runner, datasets: Dict[str, Any]) -> None:
    """Pass built datasets to a run, by phase; the run removes them from the dict."""
    for phase in list(datasets):
        name = f'_{phase}_dataloader'
        # mmengine deep-copies the config of a loader; functions are not copied.
        taken = dict(type=lambda phase=phase: datasets.pop(phase))
        setattr(run, name, dict(getattr(run, name), dataset=taken))


def close_loaders(run: Runner) -> None:
    """Shut down the persistent workers of a training and of its evaluations.

    If the garbage collector closes their queues first, torch waits five seconds per worker, and
    sends a SIGTERM, which they ignore.
    """
    for loop in (run._train_loop, run._val_loop):
        loader = getattr(loop, 'dataloader', None)
        if getattr(loader, '_iterator', None) is not None:
            loader._iterator = None


def loaded_from(run: Runner) -> str:
    """Return the path of the checkpoint that a run was asked to load; empty for none."""
    return str(run._load_from or '')


def is_resuming(run: Runner) -> bool:
    """Return True if a run was asked to resume, not just to load weights."""
    return bool(run._resume)
