"""Files of a run, the changes of its config, and its environment."""

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

from ..engine.checkpoint_hooks import newest_checkpoint
from ..engine.config import RUN_KEYS, TESTED, dicts, load_config, make_resumable
from ..errors import UsageError
from ..shipped import find


def find_config(work_dir: Path) -> Path:
    """Return the config that training saved to its work dir; UsageError unless there is one."""
    if not work_dir.is_dir():
        raise UsageError(f'{work_dir} is not a directory; pass the work dir of a run')
    paths = sorted(work_dir.glob('*.py'))
    paths = [path for path in paths if not path.name.endswith(TESTED)] or paths
    if len(paths) != 1:
        names = ', '.join(path.name for path in paths)
        found = f'several configs ({names})' if paths else 'no config of a run (*.py)'
        raise UsageError(f'{work_dir} contains {found}; pass --config PATH')
    return paths[0]


def find_checkpoint(work_dir: Path, cfg: Config) -> str:
    """Return the best checkpoint of a run, the newest of several, or else the newest of all.

    Raises:
        UsageError: there is none.
        CheckpointError: the work dir names a checkpoint that is missing.
    """
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    folders = [work_dir, Path(hook.get('out_dir') or work_dir.parent, work_dir.name)]
    best = [path for folder in folders for path in folder.glob('best_*.pth') if path.is_file()]
    if best:
        return str(max(best, key=lambda path: path.stat().st_mtime_ns))
    newest = newest_checkpoint(str(work_dir), hook)
    if newest is None:
        raise UsageError(
            f'{work_dir} contains no checkpoint; pass --checkpoint PATH, or --no-eval for a '
            'report of the logs only'
        )
    return newest


def changes_of(cfg: Config, name: str) -> Tuple[Optional[str], List[Tuple[str, str, str]]]:
    """Compare the config of a run with the shipped one whose file has the same name.

    Returns:
        The package that ships it, or None, and the changes: key, shipped value and the run's
        value, or '-'.
    """
    package, path = next(_shipped(name), (None, None))
    if package is None:
        return None, []
    keys = RUN_KEYS - {'work_dir', 'launcher', 'experiment_name', 'load_from', 'resume'}
    leaves = []
    for config in (load_config(str(path)), copy.deepcopy(cfg)):
        make_resumable(config)  # as training does
        leaves.append(dict(_leaves({key: config[key] for key in config if key in keys})))
    old, new = leaves
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return package, [(key, old.get(key, '-'), new.get(key, '-')) for key in changed]


def _shipped(name: str) -> Iterator[Tuple[str, Path]]:
    if find(name) is not None:
        yield 'mmrest', find(name)
    for package in ('mmdet', 'mmseg', 'mmpretrain'):
        origin = getattr(find_spec(package), 'origin', None)
        if origin is not None:
            configs = Path(origin).parent / '.mim' / 'configs'
            found = sorted(configs.rglob(glob.escape(name)))
            yield from ((package, path) for path in found if '_base_' not in path.parts)


def _leaves(cfg: Dict[str, Any]) -> Iterator[Tuple[str, str]]:
    """Yield the dotted keys of values without dicts inside, with their texts."""
    for where, part in dicts(cfg, ''):
        for key, value in part.items():
            if key != '_scope_' and next(dicts(value, ''), None) is None:
                text = repr(tuple(value) if isinstance(value, list) else value)
                yield f'{where}.{key}'[1:], text


def logged_environment(work_dir: Path) -> Dict[str, str]:
    """Return the environment that mmengine logged at the last start of a run, if any."""
    # Tests in the same folder log no scalars.
    scalars = work_dir.glob('*/vis_data/scalars.json')
    logged = [path for file in scalars for path in file.parents[1].glob('*.log')]
    for path in sorted(logged or work_dir.glob('*/*.log'), reverse=True):
        with path.open(encoding='utf-8', errors='replace') as file:
            head = file.read(20000)
        match = re.search(r'^System environment:\n(.*?)\n-{20,}', head, re.M | re.S)
        if match:
            # The first line of values over several lines is enough.
            return dict(re.findall(r'^ {4}(\S[^:\n]*): (.*)$', match[1], re.M))
    return {}


def environment(work_dir: Path) -> List[Tuple[str, str, str]]:
    """Return the environments of a run and its report: name, then, now; '-' if unknown."""
    then, now = logged_environment(work_dir), dict(collect_env())
    for name in ('mmcv', 'mmdet', 'mmsegmentation', 'mmrest', 'numpy'):
        with suppress(metadata.PackageNotFoundError):
            now[name] = metadata.version(name)
    keys = [key for key in {**then, **now} if 'compiling details' not in key]  # long
    return [(key, then.get(key, '-'), str(now.get(key, '-'))) for key in keys]
