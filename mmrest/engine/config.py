"""From a config file and a command line to the config of a run."""

import os.path as osp
from typing import Any, Callable, Iterator, Optional, Tuple

from mmengine.config import Config

from .errors import UsageError

PHASES = ('train', 'val', 'test')


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
        fault = 'is not a file' if osp.exists(path) else 'does not exist'
        raise UsageError(f'config {path} {fault}; give the path of a config file')
    cfg = Config.fromfile(path)
    if data_root is not None:
        _replace_data_root(cfg, data_root)
    if cfg_options:
        cfg.merge_from_dict(cfg_options)
    return cfg


def _replace_data_root(cfg: Config, data_root: str) -> None:
    parts = [f'{phase}_{part}' for phase in PHASES for part in ('dataloader', 'evaluator')]
    roots = {cfg['data_root']} if isinstance(cfg.get('data_root'), str) else set()
    if not roots:
        for part in parts:
            roots.update(d.get('data_root') for _, d in _dicts(cfg.get(part), part))
    roots = {root.rstrip('/') for root in roots if isinstance(root, str) and root}
    if len(roots) != 1:
        found = f'these are several: {", ".join(sorted(roots))}' if roots else 'there is none'
        raise UsageError(
            f'--data-root replaces the data_root of a config, but in this one {found}; set the '
            'paths with --cfg-options'
        )
    root = roots.pop()
    for part in ('data_root', *parts):
        if part in cfg:
            cfg[part] = _with_root(cfg[part], root, osp.expanduser(data_root))


def _with_root(node: Any, old: str, new: str) -> Any:
    """A config node in which every path below the folder `old` is below `new`."""
    if isinstance(node, str) and (node + '/').startswith(old + '/'):
        return new.rstrip('/') + node[len(old) :]
    if isinstance(node, dict):
        return type(node)({key: _with_root(value, old, new) for key, value in node.items()})
    if isinstance(node, (list, tuple)):
        return type(node)(_with_root(value, old, new) for value in node)
    return node


def without_sync_bn(cfg: Config) -> int:
    """Turn SyncBN into BN in the model of a config; returns how many there were."""
    norms = [
        part
        for _, part in _dicts(cfg.model, 'model')
        if _type_name(part) in ('SyncBN', 'MMSyncBN', 'SyncBatchNorm')
    ]
    for norm in norms:
        norm['type'] = 'BN'
    return len(norms)


def _type_name(part: dict) -> Optional[str]:
    """Name of a type that is given by name, or as a class."""
    return getattr(part.get('type'), '__name__', part.get('type'))


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
            if _type_name(part) in ('Pretrained', 'PretrainedInit'):
                where = f'{where}.checkpoint'
                weights = osp.expanduser(str(part.get('checkpoint')))
                _check(weights, f'pretrained weights ({where})', osp.isfile)
    _check(osp.expanduser(cfg.get('load_from') or ''), 'checkpoint', osp.isfile)


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
    if not isinstance(path, str) or not path or '://' in path or exists(path):
        return
    kind = 'folder' if exists is osp.isdir else 'file'
    fault = f'is not a {kind}' if osp.exists(path) else 'does not exist'
    raise UsageError(f'{what} {path} {fault}; {remedy}')


def _dicts(node: Any, where: str) -> Iterator[Tuple[str, dict]]:
    """Every dict of nested dicts and lists, with its dotted key."""
    if isinstance(node, dict):
        yield where, node
        for key, value in node.items():
            yield from _dicts(value, f'{where}.{key}')
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _dicts(value, f'{where}.{index}')
