"""From a config file and a command line to the config of a run."""

import os.path as osp
from typing import Any, Callable, Iterator, Optional, Tuple

from mmengine.config import Config

from .errors import UsageError


def load_config(
    path: str, cfg_options: Optional[dict] = None, data_root: Optional[str] = None
) -> Config:
    """Read a config of mmdet, mmseg or mmrest.

    Args:
        path: the config file.
        cfg_options: values to replace, by dotted key; they come last.
        data_root: folder that replaces what the config calls ``data_root``, wherever a path
            begins with it.

    Raises:
        UsageError: there is no such file, or `data_root` has nothing to replace.
    """
    if not osp.isfile(path):
        raise UsageError(f'config {path} does not exist; give the path of a config file')
    cfg = Config.fromfile(path)
    if data_root is not None:
        _replace_data_root(cfg, data_root)
    if cfg_options:
        cfg.merge_from_dict(cfg_options)
    return cfg


def _replace_data_root(cfg: Config, data_root: str) -> None:
    roots = {v.rstrip('/') for _, key, v in _entries(cfg) if key == 'data_root' and v}
    if len(roots) != 1:
        found = f'these are several: {", ".join(sorted(roots))}' if roots else 'there is none'
        raise UsageError(
            f'--data-root replaces the data_root of a config, but in this one {found}; set the '
            'paths with --cfg-options'
        )
    root = roots.pop()
    for holder, key, value in list(_entries(cfg)):
        if isinstance(value, str) and (value + '/').startswith(root + '/'):
            holder[key] = osp.join(data_root, value[len(root) :].lstrip('/'))


def without_sync_bn(cfg: Config) -> int:
    """Turn SyncBN into BN in the model of a config; returns how many there were."""
    layers = [
        (holder, key)
        for holder, key, value in _entries(cfg.model)
        if key == 'type' and value in ('SyncBN', 'MMSyncBN')
    ]
    for holder, key in layers:
        holder[key] = 'BN'
    return len(layers)


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
            for where, part in _dicts(cfg.get(name), name):
                _check_data(where, part)
    if 'train' in phases:
        for where, part in _dicts(cfg.model, 'model'):
            if part.get('type') == 'Pretrained':
                where = f'{where}.checkpoint'
                _check(part.get('checkpoint'), f'pretrained weights ({where})', osp.isfile)
    _check(cfg.get('load_from'), 'checkpoint', osp.isfile)


def _check_data(where: str, part: dict) -> None:
    # The data set's own client knows whether files of a remote backend exist.
    if part.get('backend_args') is not None or part.get('file_client_args') is not None:
        return
    root = part.get('data_root') or ''
    remedy = 'give --data-root DIR, or set it with --cfg-options'
    _check(root, f'data folder ({where}.data_root)', osp.isdir, remedy)
    annotations = part.get('ann_file')
    if isinstance(annotations, str) and annotations:
        path = osp.join(root, annotations)
        _check(path, f'annotation file ({where}.ann_file)', osp.isfile, remedy)
    prefixes = part.get('data_prefix')
    if isinstance(prefixes, dict):
        for key, prefix in prefixes.items():
            if isinstance(prefix, str) and prefix:
                path = osp.join(root, prefix)
                _check(path, f'data folder ({where}.data_prefix.{key})', osp.isdir, remedy)


def _check(
    path: Any, what: str, exists: Callable[[str], bool], remedy: str = 'give an existing path'
) -> None:
    if not isinstance(path, str) or not path or '://' in path or exists(osp.expanduser(path)):
        return
    raise UsageError(f'{what} {path} does not exist; {remedy}')


def _entries(node: Any) -> Iterator[Tuple[Any, Any, Any]]:
    """Every (holder, key, value) of nested dicts and lists."""
    items = node.items() if isinstance(node, (dict, Config)) else enumerate(node)
    for key, value in items:
        yield node, key, value
        if isinstance(value, (dict, list)):
            yield from _entries(value)


def _dicts(node: Any, where: str) -> Iterator[Tuple[str, dict]]:
    """Every dict of nested dicts and lists, with its dotted key."""
    if isinstance(node, dict):
        yield where, node
        for key, value in node.items():
            yield from _dicts(value, f'{where}.{key}')
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _dicts(value, f'{where}.{index}')
