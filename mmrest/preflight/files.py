"""Paths that a run is about to read or to write."""

import os
import os.path as osp
from pathlib import Path
from typing import Any, Callable, Tuple

from mmengine.config import Config

from ..engine.config import dicts, type_name
from ..engine.errors import UsageError

DATA_REMEDY = 'give --data-root DIR, or set it with --cfg-options'


def is_remote(path: str) -> bool:
    """Whether a path is an address, or a name in the model zoo of an OpenMMLab project."""
    zoos = ('modelzoo:', 'open-mmlab:', 'openmmlab:', 'mmcls:')
    return '://' in path or path.startswith(zoos)


def is_local(part: dict) -> bool:
    """Whether a data set of a config lies in the file system, rather than in remote storage."""
    return part.get('backend_args') is None and part.get('file_client_args') is None


def check_files(cfg: Config, phases: Tuple[str, ...]) -> None:
    """Make sure that the data and weights that a run is about to open exist.

    Addresses of remote storage are left to their clients.

    Args:
        cfg: config of the run.
        phases: which of 'train', 'val' and 'test' it goes through.

    Raises:
        UsageError: one does not exist; the message names it and where the config says so.
    """
    for phase in phases:
        for name in (f'{phase}_dataloader', f'{phase}_evaluator'):
            for where, part in dicts(cfg.get(name), name):
                if is_local(part):
                    _check_data(where, part)
    if 'train' in phases:
        for where, part in dicts(cfg.model, 'model'):
            if type_name(part) in ('Pretrained', 'PretrainedInit'):
                where = f'{where}.checkpoint'
                weights = osp.expanduser(str(part.get('checkpoint')))
                check_path(weights, f'pretrained weights ({where})', osp.isfile)
    check_path(osp.expanduser(cfg.get('load_from') or ''), 'checkpoint', osp.isfile)


def _check_data(where: str, part: dict) -> None:
    root = part.get('data_root') or ''
    check_path(root, f'data folder ({where}.data_root)', osp.isdir, DATA_REMEDY)
    labels = part.get('label_root')
    check_path(labels, f'folder of token labels ({where}.label_root)', osp.isdir, DATA_REMEDY)
    annotations = part.get('ann_file')
    if isinstance(annotations, str) and annotations:
        path = osp.join(root, annotations)
        check_path(path, f'annotation file ({where}.ann_file)', osp.isfile, DATA_REMEDY)
    prefixes = part.get('data_prefix')
    if isinstance(prefixes, str):  # of mmpretrain's class folders
        check_path(osp.join(root, prefixes), f'data folder ({where})', osp.isdir, DATA_REMEDY)
    if isinstance(prefixes, dict):
        for key, prefix in prefixes.items():
            if isinstance(prefix, str) and prefix:
                path = osp.join(root, prefix)
                what = f'data folder ({where}.data_prefix.{key})'
                check_path(path, what, osp.isdir, DATA_REMEDY)


def check_path(
    path: Any, what: str, exists: Callable[[str], bool], remedy: str = 'give an existing path'
) -> None:
    """Make sure that a local path exists; addresses and what is no path at all pass.

    Args:
        path: the path.
        what: what to call it in the message.
        exists: ``osp.isfile`` or ``osp.isdir``.
        remedy: what to do.

    Raises:
        UsageError: it does not exist, or is of the other kind.
    """
    if not isinstance(path, str) or not path or is_remote(path) or exists(path):
        return
    kind = 'folder' if exists is osp.isdir else 'file'
    fault = f'is not a {kind}' if osp.exists(path) else 'does not exist'
    raise UsageError(f'{what} {path} {fault}; {remedy}')


def check_writable(folder: str) -> Path:
    """Make sure that a folder, or what it is to be made in, can be written to; writes nothing.

    Returns:
        The nearest folder that exists.

    Raises:
        UsageError: a part of the path is no folder, or may not be written to.
    """
    path = Path(folder).expanduser().absolute()
    nearest = next(part for part in (path, *path.parents) if part.exists())
    if not nearest.is_dir():
        raise UsageError(f'work dir {folder}: {nearest} is not a folder; give another --work-dir')
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UsageError(
            f'work dir {folder}: {nearest} cannot be written to; give another --work-dir, or '
            'have its owner allow it'
        )
    return nearest
