"""Summary of a run: its files, main settings and environment."""

import copy
import glob
import re
from contextlib import suppress
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

from mmengine.config import Config
from mmengine.utils.dl_utils import collect_env

from ..engine.config import (
    RUN_KEYS,
    TESTED,
    dicts,
    is_classifier,
    load_config,
    make_resumable,
    total_batch_size,
    type_name,
)
from ..engine.saving import newest_checkpoint
from ..errors import UsageError
from ..shipped import find
from .logs import Log

Rows = List[Tuple[str, str]]

NOT_SHOWN = ('PyTorch compiling details', 'TorchVision compiling details', 'numpy_random_seed')
"""Fields of mmengine's environment log to omit."""


def find_config(work_dir: Path) -> Path:
    """Return the config that training saved to its work dir.

    Raises:
        UsageError: there is no such folder, or not exactly one config in it.
    """
    if not work_dir.is_dir():
        raise UsageError(f'{work_dir} is not a directory; pass the work dir of a run')
    paths = sorted(work_dir.glob('*.py'))
    paths = [path for path in paths if not path.name.endswith(TESTED)] or paths
    if len(paths) > 1:
        names = ', '.join(path.name for path in paths)
        raise UsageError(f'{work_dir} contains several configs ({names}); pass --config PATH')
    if not paths:
        raise UsageError(f'{work_dir} contains no config of a run (*.py); pass --config PATH')
    return paths[0]


def find_checkpoint(work_dir: Path, cfg: Config) -> str:
    """Return the best checkpoint of a run, the newest of several, or else the newest of all.

    Raises:
        UsageError: there is none.
        CheckpointError: the work dir names a checkpoint that is missing.
    """
    best = [path for path in work_dir.glob('best_*.pth') if path.is_file()]
    if best:
        return str(max(best, key=lambda path: path.stat().st_mtime_ns))
    hook = (cfg.get('default_hooks') or {}).get('checkpoint')
    newest = newest_checkpoint(str(work_dir), hook)
    if newest is None:
        raise UsageError(
            f'{work_dir} contains no checkpoint; pass --checkpoint PATH, or --no-eval for a '
            'report of the logs only'
        )
    return newest


def summary_of(cfg: Config, log: Log, processes: int) -> Rows:
    """Return the main settings of a run as names and values.

    Args:
        cfg: config of the run.
        log: log of the run.
        processes: number of processes.
    """
    model = cfg.model
    while 'backbone' not in model and isinstance(model.get('module'), dict):
        model = model.module
    loader, wrapper, loop = (
        cfg.get(key) or {} for key in ('train_dataloader', 'optim_wrapper', 'train_cfg')
    )
    datasets = [part for _, part in dicts(loader.get('dataset') or {}, '')]
    transforms = [type_name(step) for part in datasets for step in part.get('pipeline') or ()]
    planned = [f'{loop[k]} {k[4:]}' for k in ('max_epochs', 'max_iters') if loop.get(k)]
    if log.train:
        planned.append(f'{log.train[-1]["iter"]} iterations logged')
    precision = 'float32' if wrapper else ''
    if type_name(wrapper) == 'AmpOptimWrapper':
        precision = f'mixed, {wrapper.get("dtype") or "float16"}'
    batch, factors = total_batch_size(cfg, processes)
    heads = ', '.join(map(type_name, _listed(model.get('decode_head'))))
    rows = {
        'method': f'{type_name(model)} with {heads}' if heads else type_name(model),
        'backbone': _call(model.get('backbone')),
        'pretrained': _pretrained(cfg, model),
        'neck': _call(model.get('neck'), ('in_channels', 'out_channels', 'num_outs')),
        'data': '; '.join(_data(part) for part in datasets if part.get('data_root'))
        or _call(loader.get('dataset'), ()),
        'batch size': f'{batch} = {factors}' if batch else '',
        'optimizer': _call(wrapper.get('optimizer'), ('lr', 'weight_decay', 'momentum', 'betas')),
        'gradient clipping': _pairs(wrapper.get('clip_grad') or {}),
        'precision': precision,
        'length': ', '.join(planned),
        'learning rate schedule': '; '.join(
            _call(part, ('begin', 'end', 'milestones', 'gamma', 'power', 'by_epoch', 'eta_min'))
            for part in _listed(cfg.get('param_scheduler'))
        ),
        'augmentation': ', '.join(n for n in transforms if not n.startswith(('Load', 'Pack'))),
        'seed': str((cfg.get('randomness') or {}).get('seed', '')),
    }
    return [(name, text) for name, text in rows.items() if text]


def _listed(node: Any) -> List[dict]:
    return list(node) if isinstance(node, (list, tuple)) else [node] if node else []


def _call(part: Optional[dict], names: Optional[Tuple[str, ...]] = None) -> str:
    """Return a part of a config in Python syntax, with some or all of its arguments."""
    if not isinstance(part, dict):
        return ''
    named = part.keys() - {'type', 'init_cfg'} if names is None else names
    return f'{type_name(part)}({_pairs({k: v for k, v in part.items() if k in named})})'


def _pairs(values: dict) -> str:
    texts = [
        f'{key}=dict({_pairs(value)})' if isinstance(value, dict) else f'{key}={value!r}'
        for key, value in values.items()
        if key != '_scope_'
    ]
    return ', '.join(texts)


def _pretrained(cfg: Config, model: dict) -> str:
    texts = []
    for name, part in dicts(model, ''):
        initial = [init.get('checkpoint') for init in _listed(part.get('init_cfg'))]
        texts += [f'{name[1:] or "full model"}: {source}' for source in initial if source]
        if isinstance(part.get('pretrained'), str):  # shorthand, of mmseg for the backbone
            whole = 'full model' if is_classifier(cfg) else 'backbone'
            texts.append(f'{name[1:] or whole}: {part["pretrained"]}')
    if cfg.get('load_from') and not cfg.get('resume'):  # otherwise, it is the run's own
        texts.append(f'full model: {cfg.load_from}')
    return '; '.join(texts) or 'none: from scratch'


def _data(dataset: dict) -> str:
    classes = (dataset.get('metainfo') or {}).get('classes')
    number = f', {len(classes)} classes' if isinstance(classes, (list, tuple)) else ''
    return f'{type_name(dataset)} in {dataset["data_root"]}{number}'


def changes_of(cfg: Config, name: str) -> Tuple[Optional[str], List[Tuple[str, str, str]]]:
    """Compare the config of a run with the shipped one of the same name.

    Args:
        cfg: config of the run.
        name: name of its file.

    Returns:
        The package that ships a config of this name, or None, and the changes: key, shipped value
        and the run's value, or '-'.
    """
    package, path = next(_shipped(name), (None, None))
    if path is None:
        return None, []
    before, now = load_config(str(path)), copy.deepcopy(cfg)
    for config in (before, now):  # as training does
        make_resumable(config)
    keys = RUN_KEYS - {'work_dir', 'launcher', 'experiment_name', 'load_from', 'resume'}
    old, new = (
        dict(leaf for key in config if key in keys for leaf in _leaves(config[key], key))
        for config in (before, now)
    )
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return package, [(key, old.get(key, '-'), new.get(key, '-')) for key in changed]


def _shipped(name: str) -> Iterator[Tuple[str, Path]]:
    if find(name) is not None:
        yield 'mmrest', find(name)
    for package in ('mmdet', 'mmseg'):
        origin = getattr(find_spec(package), 'origin', None)
        if origin is not None:
            configs = Path(origin).parent / '.mim' / 'configs'
            yield from ((package, path) for path in sorted(configs.rglob(glob.escape(name))))


def _leaves(node: Any, where: str) -> Iterator[Tuple[str, str]]:
    """Yield the dotted keys of nested values, with their texts."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            if key != '_scope_':
                yield from _leaves(value, f'{where}.{key}')
    elif isinstance(node, (list, tuple)) and any(
        isinstance(part, (dict, list, tuple)) for part in node
    ):
        for index, value in enumerate(node):
            yield from _leaves(value, f'{where}.{index}')
    else:
        yield where, repr(tuple(node) if isinstance(node, list) else node)


def logged_environment(work_dir: Path) -> Dict[str, str]:
    """Return the environment that mmengine logged at the last start of a run, if any."""
    # Tests in the same folder log no scalars.
    scalars = work_dir.glob('*/vis_data/scalars.json')
    logged = [path for file in scalars for path in file.parents[1].glob('*.log')]
    for path in sorted(logged or work_dir.glob('*/*.log'), reverse=True):
        with path.open(encoding='utf-8', errors='replace') as file:
            head = file.read(20000)
        found = re.search(r'^System environment:\n(.*?)\n-{20,}', head, re.M | re.S)
        if found:
            # The first line of values over several lines is enough.
            return dict(re.findall(r'^ {4}(\S[^:\n]*): (.*)$', found[1], re.M))
    return {}


def environment(work_dir: Path) -> List[Tuple[str, str, str]]:
    """Return the environments of a run and its report: name, then, now; '-' if unknown."""
    then, now = logged_environment(work_dir), dict(collect_env())
    for name in ('mmcv', 'mmdet', 'mmsegmentation', 'mmrest', 'numpy'):
        with suppress(metadata.PackageNotFoundError):
            now[name] = metadata.version(name)
    keys = [key for key in {**then, **now} if key not in NOT_SHOWN]
    return [(key, then.get(key, '-'), str(now.get(key, '-'))) for key in keys]
