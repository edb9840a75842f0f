"""Load the config of a run from a file and command-line options."""

import copy
import inspect
import os.path as osp
import re
import traceback
from typing import Any, ContextManager, Iterator, Optional, Set, Tuple

from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from ..errors import UsageError, counted, first_line, suggestion
from ..shipped import find, nearest

PHASES = ('train', 'val', 'test')
DATA_PARTS = [f'{phase}_{part}' for phase in PHASES for part in ('dataloader', 'evaluator')]

TESTED = '_tested.py'
"""Suffix of the config of a test in a work dir."""

INSTALLED_BY = {
    'mmdet': 'pip install mmdet',
    'mmpretrain': 'pip install mmrest[cls]',
    'mmsegmentation': 'pip install mmsegmentation ftfy regex',
    'pkg_resources': 'pip install "setuptools<81"',
    'torchvision': 'install the release for your torch',
}
"""How to install packages that some configs need."""

RUN_KEYS = inspect.signature(Runner).parameters.keys() - {'cfg'} | {
    'activation_checkpointing', 'compile', 'data_root', 'efficient_conv_bn_eval',
    'find_unused_parameters', 'model_wrapper_cfg', 'runner_type', 'strategy', 'sync_bn',
    'tta_model', 'tta_pipeline',
}  # fmt: skip
"""Top-level keys that are read, whether or not a config defines them."""

METRIC_FILES = ('outfile_prefix', 'output_dir', 'out_file_path', 'outfile_path')
"""Arguments of metrics that write files."""


def load_config(
    path: str, cfg_options: Optional[dict] = None, data_root: Optional[str] = None
) -> Config:
    """Read an mmrest, mmdet, mmseg or mmpretrain config.

    Args:
        path: a config file, or the name of a shipped config.
        cfg_options: values that override the config's, by dotted key.
        data_root: folder that replaces the config's ``data_root``, in every path below it.

    Raises:
        UsageError: the config is not found or cannot be read, a value does not fit, or there is no
            single ``data_root`` to replace.
    """
    path = osp.expanduser(path)
    if osp.isdir(path):
        raise UsageError(f'config {path} is a directory; pass a config file')
    if not osp.isfile(path):
        shipped = find(path)
        if shipped is None:
            near = nearest(path)
            hint = f'did you mean {near[0]}?' if near else 'mmrest configs lists the shipped ones'
            raise UsageError(
                f'config {path} not found: no file or shipped config has this name; {hint}'
            )
        path = str(shipped)
    try:
        cfg = Config.fromfile(path)
        # Iterating also imports the types of a Python-style config.
        for key, part in dicts([cfg.get('model'), cfg.get('tta_model')], ''):
            if key.endswith(('nms', 'roi_layer')) and part.get('type'):  # mmcv needs a name
                part['type'] = type_name(part)
        for key, part in dicts([cfg.get(f'{phase}_dataloader') for phase in PHASES], ''):
            if key.endswith('collate_fn'):  # mmengine would pass the scope of its base to it
                part.pop('_scope_', None)
    except Exception as error:  # a config is Python: it can fail in any way
        raise UsageError(f'config {_broken(path, error)} {_unreadable(error)}') from error
    if 'model' not in cfg:
        raise UsageError(f'config {path} defines no model; pass the config of a run')
    if data_root is not None:
        _replace_data_root(cfg, data_root)
    merge_options(cfg, cfg_options)
    return cfg


def merge_options(cfg: Config, cfg_options: Optional[dict]) -> None:
    """Override values of a config, by dotted key; raise UsageError if one does not fit."""
    for key, value in (cfg_options or {}).items():
        parent, _, last = f'.{key}'.rpartition('.')
        before = dict(dicts(dict(cfg.items()), '')).get(parent, {}).get(last)
        _check_option(key, value, before, cfg)
        if isinstance(before, tuple) and isinstance(value, list):
            value = tuple(value)  # Resize, for one, needs a tuple; a command line gives lists
        if key == 'data_root' and isinstance(value, str):
            _replace_data_root(cfg, value)
            continue
        try:
            cfg.merge_from_dict({key: value})
        except Exception as error:  # an index beyond a list, a key below a number, ...
            raise UsageError(
                f'--cfg-options {key}={value} does not fit the config: {first_line(error)}'
            ) from error


def _broken(path: str, error: Exception) -> str:
    """Return the path of the config, or of its base that cannot be read."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    frames = [frame for frame in frames if frame.f_globals.get('__name__') == Config.__module__]
    read = [path, *(str(frame.f_locals.get('filename', path)) for frame in frames)]
    last = [name for name in read if osp.isfile(name)][-1]
    return path if osp.samefile(last, path) else f'{last} (for {path})'


def _unreadable(error: Exception) -> str:
    """Return why a config cannot be read; for missing packages, how to install them."""
    while isinstance(error, ImportError) and (error.__cause__ or error.__context__):
        error = error.__cause__ or error.__context__  # mmengine's own error lists sys.path
    missing = re.match(r"No module named '(\w+)|(\w+) is not installed", str(error))
    name = missing and (missing.group(1) or missing.group(2))
    if name in INSTALLED_BY:
        return f'needs {name}, which is not installed: {INSTALLED_BY[name]}'
    similar = nearest(str(getattr(error, 'filename', None) or ''))  # of a base config
    hint = f'; did you mean {similar[0]}?' if similar else ''
    return f'cannot be read: {first_line(error)}{hint}'


def _check_option(key: str, value: Any, before: Any, cfg: Config) -> None:
    """Reject keys that nothing reads, which mmengine accepts, and lists from a comma in a path."""
    name = key.partition('.')[0]
    known = RUN_KEYS | cfg.keys()
    if name not in known:
        hint = suggestion(name, known, 'nothing in a run would read it')
        raise UsageError(f'--cfg-options {key}: the config has no {name}; {hint}')
    last = key.rpartition('.')[2]
    # A path with commas is parsed as a list. The pre-flight explains a list of annotation files.
    may_be_list = last in ('ann_file', 'save_best', 'monitor')
    was_path = isinstance(before, str) and '/' in before and not may_be_list
    is_path = last in ('work_dir', 'load_from', 'data_root')
    if (was_path or is_path) and isinstance(value, list):
        raise UsageError(
            f'--cfg-options {key} is the list {value}, not a string; put a string with commas in '
            f'quotes: {key}=\'"{",".join(map(str, value))}"\''
        )


def data_roots(cfg: Config) -> Set[str]:
    """Return each ``data_root`` of datasets and evaluators, without a slash at the end."""
    nodes = dicts([cfg.get(part) for part in DATA_PARTS], '')
    roots = [node.get('data_root') for _, node in nodes]
    return {root.rstrip('/') for root in roots if isinstance(root, str) and root}


def has_paths_below(cfg: Config, root: str) -> bool:
    """Return True if a path of a dataset or evaluator is below a folder."""
    parts = [cfg.get(part) for part in DATA_PARTS]
    return bool(root) and _with_root(parts, root.rstrip('/'), '') != parts


def _replace_data_root(cfg: Config, data_root: str) -> None:
    roots, top = data_roots(cfg), cfg.get('data_root')
    # No path is below that of a base config if the config itself sets those of its datasets.
    if isinstance(top, str) and has_paths_below(cfg, top):
        roots = {top.rstrip('/')}
    if len(roots) != 1:
        found = f'there are several: {", ".join(sorted(roots))}' if roots else 'there is none'
        raise UsageError(
            f'--data-root needs one data_root in the config, but {found}; set that of each '
            'dataset with --cfg-options'
        )
    root = roots.pop()
    for part in ('data_root', *DATA_PARTS):
        if part in cfg:
            cfg[part] = _with_root(cfg[part], root, osp.expanduser(data_root))


def _with_root(node: Any, old: str, new: str) -> Any:
    """Return a config node with every path below `old` moved below `new`."""
    if isinstance(node, str) and (node + '/').startswith(old + '/'):
        return new.rstrip('/') + node[len(old) :]
    if isinstance(node, dict):
        # Not its own method, which would import the lazy types of Python-style configs.
        return type(node)({k: _with_root(value, old, new) for k, value in dict.items(node)})
    if isinstance(node, (list, tuple)):
        return type(node)(_with_root(value, old, new) for value in node)
    return node


def without_sync_bn(cfg: Config) -> int:
    """Replace SyncBN with BN in a config's model, and return the number of replaced layers."""
    names = ('SyncBN', 'MMSyncBN', 'SyncBatchNorm')
    norms = [part for _, part in dicts(cfg.model, 'model') if type_name(part) in names]
    for norm in norms:
        norm['type'] = 'BN'
    return len(norms)


def make_resumable(cfg: Config) -> None:
    """Replace mmengine's loops and checkpoint hook in configs that do not name mmrest's."""
    replacements = {
        'EpochBasedTrainLoop': 'ResumableEpochLoop',
        'IterBasedTrainLoop': 'ResumableIterLoop',
        'CheckpointHook': 'AtomicCheckpointHook',
    }
    loop = cfg.get('train_cfg')
    if loop and 'type' not in loop:
        by_epoch = loop.pop('by_epoch', 'max_epochs' in loop)
        loop['type'] = 'EpochBasedTrainLoop' if by_epoch else 'IterBasedTrainLoop'
    if cfg.get('default_hooks') is None:
        cfg.default_hooks = {}
    cfg.default_hooks.setdefault('checkpoint', dict(type='CheckpointHook', interval=1))
    for part in (loop, *cfg.default_hooks.values(), *(cfg.get('custom_hooks') or ())):
        if isinstance(part, dict) and type_name(part) in replacements:
            part['type'] = replacements[type_name(part)]


def check_tta(cfg: Config) -> None:
    """Raise UsageError if a config does not support test-time augmentation."""
    if any(part.get('mask_head') for _, part in dicts(cfg.model, 'model')):
        raise UsageError('mmdet does not support test-time augmentation of masks; drop --tta')
    if cfg.get('tta_model') is None or cfg.get('tta_pipeline') is None:
        example = 'see configs/_base_/runtimes/detection.py'
        if is_classifier(cfg):
            example = 'for classifiers, tta_model is AverageClsScoreTTA of mmpretrain'
        raise UsageError(
            f'test-time augmentation (TTA) needs tta_model and tta_pipeline in {cfg.filename}; '
            f'{example}'
        )
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    if 'pipeline' not in dataset:
        raise UsageError(
            'test-time augmentation (TTA) replaces test_dataloader.dataset.pipeline, which '
            f'{type_name(dataset) or "this config"} does not have; use a single dataset'
        )


def use_tta(cfg: Config) -> None:
    """Test with the augmentations of the config's tta_pipeline, merged by its tta_model."""
    check_tta(cfg)
    model = cfg.tta_model.copy()
    model.update(module=cfg.model)
    cfg.model = model
    usual, steps = cfg.test_dataloader.dataset.pipeline, list(cfg.tta_pipeline)
    if usual and steps and type_name(usual[0]) == type_name(steps[0]):
        loading = usual[0].copy()  # read images as without augmentation
        loading.update(steps[0])
        steps[0] = loading
    cfg.test_dataloader.dataset.pipeline = steps


def is_classifier(cfg: Config) -> bool:
    """Return True for an mmpretrain config."""
    return package_of(cfg) == 'mmpretrain'


def is_segmentor(cfg: Config) -> bool:
    """Return True for an mmseg config."""
    return package_of(cfg) == 'mmseg'


def package_of(cfg: Config) -> str:
    """Return the default scope of a config, or else the package of its model's class."""
    kind = (cfg.get('model') or {}).get('type')
    bases = [base.__module__ for base in getattr(kind, '__mro__', ())]
    packages = [name.partition('.')[0] for name in (bases or [str(kind)])]
    known = [package for package in packages if package in ('mmdet', 'mmseg', 'mmpretrain')]
    return cfg.get('default_scope') or (known or [''])[0]


def default_scope(cfg: Config) -> ContextManager:
    """Build parts in the default scope of a config; None leaves the scope as it is."""
    return DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine'))


def type_name(part: dict) -> str:
    """Return the name of a type, given by name or as a class, without its scope; '' for none."""
    kind = part.get('type') or ''
    return str(getattr(kind, '__name__', kind)).rpartition('.')[2]


def dicts(node: Any, where: str) -> Iterator[Tuple[str, dict]]:
    """Yield every dict of nested dicts and lists, with its dotted key."""
    if isinstance(node, dict):
        yield where, node
        for key, value in node.items():
            yield from dicts(value, f'{where}.{key}')
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from dicts(value, f'{where}.{index}')


def hooks(cfg: Config) -> Iterator[Tuple[str, dict]]:
    """Yield every dict of the hooks of a config, with its dotted key."""
    for key in ('default_hooks', 'custom_hooks'):
        yield from dicts(cfg.get(key), key)


def confined(cfg: Config, folder: str) -> Config:
    """Return a copy of a config whose metrics, hooks and visualizer write only to a folder."""
    cfg = copy.deepcopy(cfg)
    metrics = dicts([cfg.get(f'{phase}_evaluator') for phase in PHASES], '')
    for number, (_, part) in enumerate(metrics):
        for key in [key for key in METRIC_FILES if part.get(key)]:
            part[key] = osp.join(folder, f'{number}_{osp.basename(part[key])}')
    for _, hook in hooks(cfg):
        if hook.get('out_dir'):
            hook['out_dir'] = folder
    if isinstance(cfg.get('visualizer'), dict):  # instances are shared by name
        backends = [dict(type='LocalVisBackend')]
        cfg.visualizer.update(name=folder, save_dir=folder, vis_backends=backends)
    return cfg


def accumulation(cfg: Config) -> int:
    """Return the number of iterations whose gradients one step accumulates."""
    return (cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1)


def total_batch_size(cfg: Config, processes: int) -> Tuple[int, str]:
    """Return the number of images per optimizer step, and its factors; 0 if it is not set."""
    size, accumulated = (cfg.get('train_dataloader') or {}).get('batch_size'), accumulation(cfg)
    images = sum(size) if isinstance(size, (list, tuple)) else size or 0  # of several datasets
    factors = f'{images} x {counted(processes, "process", "es")}'
    if accumulated > 1:
        factors += f' x {accumulated} accumulated'
    return images * processes * accumulated, factors


CLASS_HEADS = {'bbox_head', 'mask_head', 'decode_head', 'auxiliary_head', 'head'}
"""Heads whose num_classes is the number of classes; others count something else."""


def heads(cfg: Config) -> Iterator[Tuple[str, int]]:
    """Yield the heads that predict classes, by dotted key, with their number of classes."""
    for head, part in dicts(cfg.model, 'model'):
        predicted = part.get('num_classes')
        # An RPN predicts objectness, an auxiliary head of STDC boundaries, and others one mask.
        others = 'rpn' in head or type_name(part) == 'STDCHead' or part.get('class_agnostic')
        predicts_classes = CLASS_HEADS & set(head.split('.')[-2:])
        if predicts_classes and isinstance(predicted, int) and not others:
            yield head, predicted
