"""What a run was: its files, its config in a few lines, and where it ran."""

import copy
import re
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

from mmengine.config import Config
from mmengine.utils.dl_utils import collect_env

from ..engine.config import RUN_KEYS, TESTED, dicts, load_config, make_resumable, type_name
from ..engine.errors import UsageError
from ..engine.saving import newest_checkpoint
from .logs import Log

Rows = List[Tuple[str, str]]

SHIPPED = ('mmrest', 'mmdet', 'mmseg')
"""Packages that hold configs, which a run's own may be named after."""

METHODS = {'EncoderDecoder': 'decode_head', 'CascadeEncoderDecoder': 'decode_head'}
"""Models that say little of the method, and the part that does."""


class Change(NamedTuple):
    """A value of a config that a run has changed; '-' where there is none."""

    key: str
    before: str
    now: str


def find_config(work_dir: Path) -> Path:
    """The config that training wrote into its work dir.

    Raises:
        UsageError: there is no such folder, no config in it, or there are several.
    """
    if not work_dir.is_dir():
        raise UsageError(f'{work_dir} is not a folder; give the work dir of a run')
    paths = sorted(work_dir.glob('*.py'))
    paths = [path for path in paths if not path.name.endswith(TESTED)] or paths
    if len(paths) > 1:
        names = ', '.join(path.name for path in paths)
        raise UsageError(f'{work_dir} holds several configs ({names}); choose with --config PATH')
    if not paths:
        raise UsageError(f'{work_dir} holds no config of a run (*.py); give --config PATH')
    return paths[0]


def find_checkpoint(work_dir: Path, cfg: Config) -> str:
    """The best checkpoint of a run, the newest of several, or else the newest of all.

    Raises:
        UsageError: there is none.
        CheckpointError: there are only such as cannot be read.
    """
    best = [path for path in work_dir.glob('best_*.pth') if path.is_file()]
    if best:
        return str(max(best, key=lambda path: path.stat().st_mtime_ns))
    hook = (cfg.get('default_hooks') or {}).get('checkpoint')
    newest = newest_checkpoint(str(work_dir), hook)
    if newest is None:
        raise UsageError(
            f'{work_dir} holds no checkpoint; give --checkpoint PATH, or --no-eval for a report '
            'of the logs alone'
        )
    return newest


def summary_of(cfg: Config, log: Log, processes: int) -> Rows:
    """The config of a run in a few lines: name of a thing, and what it is.

    Args:
        cfg: of the run.
        log: of the run.
        processes: how many it had.
    """
    model = cfg.model
    while 'backbone' not in model and isinstance(model.get('module'), dict):
        model = model.module
    loader = cfg.get('train_dataloader') or {}
    wrapper = cfg.get('optim_wrapper') or {}
    rows = {
        'method': _method(model),
        'backbone': _call(model.get('backbone')),
        'pretrained': _pretrained(cfg),
        'neck': _call(model.get('neck'), ('in_channels', 'out_channels', 'num_outs')),
        'data': _data(loader),
        'batch size': _batch_size(loader, wrapper, processes),
        'optimizer': _call(wrapper.get('optimizer'), ('lr', 'weight_decay', 'momentum', 'betas')),
        'gradient clipping': _pairs(wrapper.get('clip_grad') or {}),
        'precision': _precision(wrapper),
        'length': _length(cfg, log),
        'learning rate schedule': '; '.join(
            _call(part, ('begin', 'end', 'milestones', 'gamma', 'power', 'by_epoch', 'eta_min'))
            for part in _parts(cfg.get('param_scheduler'))
        ),
        'augmentation': ', '.join(_transforms(loader)),
        'seed': str((cfg.get('randomness') or {}).get('seed', '')),
    }
    return [(name, text) for name, text in rows.items() if text]


def _parts(node: Any) -> List[dict]:
    return list(node) if isinstance(node, (list, tuple)) else [node] if node else []


def _method(model: dict) -> str:
    name = type_name(model) or ''
    head = model.get(METHODS.get(name, ''))
    heads = [type_name(part) for part in _parts(head)]
    return f'{name} with {", ".join(heads)}' if heads else name


def _call(part: Optional[dict], names: Optional[Tuple[str, ...]] = None) -> str:
    """A part of a config as Python would write it, with some or all of its arguments."""
    if not isinstance(part, dict):
        return ''
    left_out = ('type', '_scope_', 'init_cfg')
    chosen = {
        key: value
        for key, value in part.items()
        if key not in left_out and (names is None or key in names)
    }
    return f'{type_name(part)}({_pairs(chosen)})'


def _pairs(values: dict) -> str:
    return ', '.join(f'{key}={_text(value)}' for key, value in values.items())


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return f'dict({_pairs({k: v for k, v in value.items() if k != "_scope_"})})'
    return str(value) if isinstance(value, (int, float)) else repr(value)


def _pretrained(cfg: Config) -> str:
    begun = cfg.get('load_from')
    weights = ((cfg.model.get('backbone') or {}).get('init_cfg') or {}) if cfg.model else {}
    source = weights.get('checkpoint') if isinstance(weights, dict) else None
    texts = [f'backbone: {source}' if source else '', f'whole model: {begun}' if begun else '']
    if begun and cfg.get('resume'):
        texts[1] = ''  # its own checkpoint
    return '; '.join(filter(None, texts)) or 'none: from scratch'


def _data(loader: dict) -> str:
    texts = []
    for _, part in dicts(loader.get('dataset') or {}, ''):
        root = part.get('data_root')
        if root:
            classes = (part.get('metainfo') or {}).get('classes')
            number = f', {len(classes)} classes' if isinstance(classes, (list, tuple)) else ''
            texts.append(f'{type_name(part)} in {root}{number}')
    return '; '.join(texts) or _call(loader.get('dataset'), ())


def _batch_size(loader: dict, wrapper: dict, processes: int) -> str:
    each = loader.get('batch_size')
    if not each:
        return ''
    accumulated = wrapper.get('accumulative_counts', 1)
    total = each * processes * accumulated
    factors = f'{each} x {processes} process(es)'
    if accumulated > 1:
        factors += f' x {accumulated} accumulated'
    return f'{total} = {factors}'


def _precision(wrapper: dict) -> str:
    if type_name(wrapper) == 'AmpOptimWrapper':
        return f'mixed, {wrapper.get("dtype") or "float16"}'
    return 'float32' if wrapper else ''


def _length(cfg: Config, log: Log) -> str:
    loop = cfg.get('train_cfg') or {}
    planned = [f'{loop[f"max_{unit}"]} {unit}' for unit in ('epochs', 'iters') if
               loop.get(f'max_{unit}')]  # fmt: skip
    reached = f', {log.train[-1]["iter"]} iterations logged' if log.train else ''
    return ''.join(planned) + reached


def _transforms(loader: dict) -> Iterator[str]:
    for _, part in dicts(loader.get('dataset') or {}, ''):
        for transform in part.get('pipeline') or ():
            name = type_name(transform)
            if not name.startswith(('Load', 'Pack')):
                yield name


def changes_of(cfg: Config, name: str) -> Tuple[Optional[str], List[Change]]:
    """What a run's config changes of the one that it was made from, where that is shipped.

    Args:
        cfg: of the run.
        name: of its file.

    Returns:
        The package that ships a config of this name, or None, and the changes.
    """
    package, path = next(_shipped(name), (None, None))
    if path is None:
        return None, []
    before, now = load_config(str(path)), copy.deepcopy(cfg)
    for config in (before, now):  # training does so, other tools do not
        make_resumable(config)
    old, new = (dict(_leaves(config)) for config in (before, now))
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return package, [Change(key, old.get(key, '-'), new.get(key, '-')) for key in keys]


def _shipped(name: str) -> Iterator[Tuple[str, Path]]:
    own = Path(__file__).resolve().parents[1]
    for folder in (own.parent / 'configs', own / '.mim' / 'configs'):
        if (folder / name).is_file():
            yield 'mmrest', folder / name
    for package in SHIPPED[1:]:
        try:
            files = metadata.files({'mmseg': 'mmsegmentation'}.get(package, package)) or []
        except metadata.PackageNotFoundError:
            continue
        for file in files:
            if file.name == name and '.mim/configs' in file.as_posix():
                yield package, Path(file.locate())


def _leaves(cfg: Config) -> Iterator[Tuple[str, str]]:
    """Dotted keys of what a run reads, with the text of their values."""

    def walk(node: Any, where: str) -> Iterator[Tuple[str, str]]:
        if isinstance(node, dict) and node:
            for key, value in node.items():
                if key != '_scope_':
                    yield from walk(value, f'{where}.{key}')
        elif isinstance(node, (list, tuple)) and any(
            isinstance(part, (dict, list, tuple)) for part in node
        ):
            for index, value in enumerate(node):
                yield from walk(value, f'{where}.{index}')
        else:
            yield where, repr(tuple(node) if isinstance(node, list) else node)

    for key in cfg:
        if key in RUN_KEYS - {'work_dir', 'launcher', 'experiment_name', 'load_from', 'resume'}:
            yield from walk(cfg[key], key)


def logged_environment(work_dir: Path) -> Dict[str, str]:
    """What mmengine wrote of the machine when a run began last; empty where it wrote no log."""
    paths = sorted(work_dir.glob('*/*.log'))
    for path in reversed(paths):
        with path.open(encoding='utf-8', errors='replace') as file:
            head = file.read(20000)
        found = re.search(r'^System environment:\n(.*?)\n-{20,}', head, re.M | re.S)
        if found:
            # Of what goes over several lines the first one says enough.
            pairs = re.findall(r'^ {4}(\S[^:\n]*): (.*)$', found[1], re.M)
            return {key: value for key, value in pairs if key not in LEFT_OUT}
    return {}


LEFT_OUT = ('PyTorch compiling details', 'TorchVision compiling details', 'numpy_random_seed')
"""What mmengine collects and few people read."""


def environment(work_dir: Path) -> List[Tuple[str, str, str]]:
    """Where a run ran and where its report was made: name, then, now; '-' where it is unknown."""
    then = logged_environment(work_dir)
    now = {key: str(value) for key, value in collect_env().items() if key not in LEFT_OUT}
    for name in ('mmcv', 'mmdet', 'mmsegmentation', 'mmrest', 'numpy'):
        try:
            now[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return [(key, then.get(key, '-'), now.get(key, '-')) for key in {**then, **now}]
