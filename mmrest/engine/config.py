"""From a config file and a command line to the config of a run."""

import difflib
import inspect
import os.path as osp
import re
import traceback
from typing import Any, Iterator, Optional, Tuple

from mmengine.config import Config
from mmengine.runner import Runner

from ..shipped import find, nearest
from .errors import UsageError

PHASES = ('train', 'val', 'test')

TESTED = '_tested.py'
"""End of the name under which a work dir keeps the config of a test."""

INSTALLED_BY = {
    'mmdet': 'pip install mmdet',
    'mmpretrain': 'pip install mmrest[cls]',
    'mmsegmentation': 'pip install mmsegmentation ftfy regex',
    'torchvision': 'pip install the release of it that belongs to your torch',
}
"""How to install what mmrest itself does not need, and some configs do."""

RUN_KEYS = inspect.signature(Runner).parameters.keys() - {'cfg'} | {
    'activation_checkpointing',
    'compile',
    'data_root',
    'efficient_conv_bn_eval',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'runner_type',
    'strategy',
    'sync_bn',
    'tta_model',
    'tta_pipeline',
}
"""Top-level keys that something reads, whether or not a config file holds them."""


def load_config(
    path: str, cfg_options: Optional[dict] = None, data_root: Optional[str] = None
) -> Config:
    """Read a config of mmdet, mmseg or mmrest.

    Args:
        path: a config file, or the name of a shipped config.
        cfg_options: values to replace, by dotted key; they come last.
        data_root: folder that replaces what the config calls ``data_root``, wherever a path
            begins with it.

    Raises:
        UsageError: the file does not exist or cannot be read, a value does not fit, or
            `data_root` has nothing to replace.
    """
    if osp.isdir(path):
        raise UsageError(f'config {path} is a directory; pass a config file')
    if not osp.isfile(path):
        shipped = find(path)
        if shipped is None:
            near = nearest(path)
            hint = f'did you mean {near[0]}?' if near else 'mmrest configs lists the shipped ones'
            raise UsageError(f'config {path} not found, neither as a file nor by name; {hint}')
        path = str(shipped)
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # a config is a program: it can fail in any way
        raise UsageError(f'config {path} {_unreadable(error)}') from error
    if 'model' not in cfg:
        raise UsageError(f'config {path} defines no model; give the config of a run')
    if data_root is not None:
        _replace_data_root(cfg, data_root)
    for key, value in (cfg_options or {}).items():
        _check_key(key, value, cfg)
        _check_kind(key, value, cfg)
        try:
            cfg.merge_from_dict({key: value})
        except Exception as error:  # an index beyond a list, a key below a number, ...
            raise UsageError(
                f'--cfg-options {key}={value} does not fit the config: {first_line(error)}'
            ) from error
    return cfg


def _unreadable(error: Exception) -> str:
    """What keeps a config from being read; of packages that it needs, how to install them."""
    while isinstance(error, ImportError) and (error.__cause__ or error.__context__):
        error = error.__cause__ or error.__context__  # mmengine's own lists the path of Python
    missing = re.match(r"No module named '(\w+)|(\w+) is not installed", str(error))
    name = missing and (missing.group(1) or missing.group(2))
    if name in INSTALLED_BY:
        return f'needs {name}, which is not installed: {INSTALLED_BY[name]}'
    return f'cannot be read: {first_line(error)}'


def _check_key(key: str, value: Any, cfg: Config) -> None:
    """Refuse what no part of a run would read: mmengine takes any key."""
    if key.rpartition('.')[2] == 'pretrained' and value is not None:
        raise UsageError(
            f'--cfg-options {key}={value} would be ignored: tools/train.py --pretrained {value} '
            'begins from weights of the backbone, load_from=PATH from those of a whole model'
        )
    name = key.partition('.')[0]
    known = RUN_KEYS | cfg.keys()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f'did you mean {near[0]}?' if near else 'nothing in a run would read it'
        raise UsageError(f'--cfg-options {key}: the config has no {name}; {hint}')


def _check_kind(key: str, value: Any, cfg: Config) -> None:
    """Refuse the list that a comma in a path makes."""
    before: Any = cfg
    for part in key.split('.'):
        before = before.get(part) if isinstance(before, (dict, Config)) else None
    paths = ('work_dir', 'load_from', 'data_root')
    name = key.rpartition('.')[2]
    is_string = isinstance(before, str) and name != 'ann_file'  # which the pre-flight explains
    if (is_string or name in paths) and isinstance(value, list):
        raise UsageError(
            f'--cfg-options {key} is the list {value}, where one string belongs; put a string '
            f'that has commas in quotes: {key}=\'"{",".join(map(str, value))}"\''
        )


def first_line(error: Exception) -> str:
    """Type and first line of an error, for a message of one line; of none, the line of code."""
    if not str(error).strip() and error.__traceback__ is not None:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f'{type(error).__name__}: {frame.line} ({frame.name})'
    return f'{type(error).__name__}: {str(error).strip()}'.split('\n')[0].rstrip(' :')


def _replace_data_root(cfg: Config, data_root: str) -> None:
    parts = [f'{phase}_{part}' for phase in PHASES for part in ('dataloader', 'evaluator')]
    roots = {cfg['data_root']} if isinstance(cfg.get('data_root'), str) else set()
    if not roots:
        for part in parts:
            roots.update(d.get('data_root') for _, d in dicts(cfg.get(part), part))
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
        for _, part in dicts(cfg.model, 'model')
        if type_name(part) in ('SyncBN', 'MMSyncBN', 'SyncBatchNorm')
    ]
    for norm in norms:
        norm['type'] = 'BN'
    return len(norms)


def make_resumable(cfg: Config) -> None:
    """Replace mmengine's loops and checkpoint hook in configs that do not name those of mmrest."""
    loop = cfg.get('train_cfg')
    if loop:
        by_epoch = loop.pop('by_epoch', True) if 'type' not in loop else None
        name = type_name(loop) or ('EpochBasedTrainLoop' if by_epoch else 'IterBasedTrainLoop')
        loop['type'] = {
            'EpochBasedTrainLoop': 'ResumableEpochLoop',
            'IterBasedTrainLoop': 'ResumableIterLoop',
        }.get(name, loop.get('type'))
    if cfg.get('default_hooks') is None:
        cfg.default_hooks = {}
    cfg.default_hooks.setdefault('checkpoint', dict(type='CheckpointHook', interval=1))
    for hook in (*cfg.default_hooks.values(), *(cfg.get('custom_hooks') or ())):
        if isinstance(hook, dict) and type_name(hook) == 'CheckpointHook':
            hook['type'] = 'AtomicCheckpointHook'


def is_classifier(cfg: Config) -> bool:
    """Whether a config is one of mmpretrain."""
    return cfg.get('default_scope') == 'mmpretrain'


def type_name(part: dict) -> Optional[str]:
    """Name of a type that is given by name, or as a class."""
    return getattr(part.get('type'), '__name__', part.get('type'))


def dicts(node: Any, where: str) -> Iterator[Tuple[str, dict]]:
    """Every dict of nested dicts and lists, with its dotted key."""
    if isinstance(node, dict):
        yield where, node
        for key, value in node.items():
            yield from dicts(value, f'{where}.{key}')
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from dicts(value, f'{where}.{index}')


OF_CLASSES = {'bbox_head', 'mask_head', 'decode_head', 'auxiliary_head', 'head'}
"""Heads whose num_classes is the length of the class list.

Those of panoptic segmentation, and of extra supervision, count something else.
"""


def heads(cfg: Config) -> Iterator[Tuple[str, int]]:
    """The heads of a network that predict classes, by dotted key, and how many they do."""
    for head, part in dicts(cfg.model, 'model'):
        predicted = part.get('num_classes')
        # An RPN tells objects from background, and a head of STDC what is a boundary.
        others = 'rpn' in head or type_name(part) == 'STDCHead'
        of_classes = OF_CLASSES & set(head.split('.')[-2:])
        if of_classes and isinstance(predicted, int) and not others:
            yield head, predicted
