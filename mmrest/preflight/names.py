"""Types and arguments of what a rehearsal does not build: loops, hooks, optimizers, backends."""

import difflib
import inspect
from importlib.util import find_spec
from typing import Any, Iterable, Iterator, Set, Tuple

from mmengine import registry
from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

from ..engine.building import find_type
from ..engine.config import dicts
from ..engine.errors import UsageError

BUILDERS_KEYS = {
    *('type', '_scope_', '_delete_', 'priority', 'convert_to_iter_based', 'by_epoch'),
    *('constructor', 'paramwise_cfg', 'optimizer'),
}
"""Keys that mmengine removes before it calls what is built."""


def check_names(cfg: Config, phases: Tuple[str, ...]) -> None:
    """Check types and arguments of loops, hooks, optimizers, schedulers and backends.

    Args:
        cfg: config of the run.
        phases: which of 'train', 'val' and 'test' it goes through.

    Raises:
        UsageError: a type is not registered, its package not installed, or an argument unknown.
    """
    for where, part, root in _parts(cfg, phases):
        name = part.get('type')
        kind = find_type(root, name) if isinstance(name, str) else name
        if where == 'train_cfg' and name is None:
            kind = EpochBasedTrainLoop if part.get('by_epoch', True) else IterBasedTrainLoop
        if kind is None:
            with root.switch_scope_and_registry(None) as of_scope:
                known = {*of_scope.module_dict, *root.module_dict}
            remedy = _hint(str(name), known) or 'import what defines it, with custom_imports'
            raise UsageError(f'{where}.type: {name} is not registered; {remedy}')
        package = kind.__name__[: -len('VisBackend')].lower()  # TensorboardVisBackend's, ...
        if root is registry.VISBACKENDS and package != 'local' and 'mmengine' in kind.__module__:
            if find_spec(package) is None:
                raise UsageError(
                    f'{where}: {kind.__name__} needs {package}, which is not installed: pip '
                    f'install {package}'
                )
        taken, strict = _arguments(kind)
        for key in part.keys() - taken - BUILDERS_KEYS:
            if strict or _hint(key, taken, 0.85):
                remedy = _hint(key, taken) or 'remove it'
                raise UsageError(f'{where}.{key}: {kind.__name__} has no such argument; {remedy}')


def _parts(cfg: Config, phases: Tuple[str, ...]) -> Iterator[Tuple[str, dict, Registry]]:
    for phase in phases:
        if cfg.get(f'{phase}_cfg'):
            yield f'{phase}_cfg', cfg[f'{phase}_cfg'], registry.LOOPS
    wrapper = ('train' in phases and cfg.get('optim_wrapper')) or {}
    if wrapper:
        yield 'optim_wrapper', dict(dict(type='OptimWrapper'), **wrapper), registry.OPTIM_WRAPPERS
    if isinstance(wrapper.get('optimizer'), dict):
        yield 'optim_wrapper.optimizer', wrapper['optimizer'], registry.OPTIMIZERS
    backends = (cfg.get('visualizer') or {}).get('vis_backends')
    for where, node, root in (
        ('default_hooks', cfg.get('default_hooks'), registry.HOOKS),
        ('custom_hooks', cfg.get('custom_hooks'), registry.HOOKS),
        ('param_scheduler', 'train' in phases and _schedulers(cfg), registry.PARAM_SCHEDULERS),
        ('visualizer.vis_backends', backends, registry.VISBACKENDS),
    ):
        for key, part in node.items() if isinstance(node, dict) else enumerate(node or ()):
            if isinstance(part, dict):
                yield f'{where}.{key}', part, root


def _schedulers(cfg: Config) -> list:
    return [part for _, part in dicts(cfg.get('param_scheduler'), '') if 'type' in part]


def _hint(name: str, names: Iterable[str], cutoff: float = 0.6) -> str:
    near = difflib.get_close_matches(name, sorted(names), 1, cutoff)
    return f'did you mean {near[0]}?' if near else ''


def _arguments(kind: Any) -> Tuple[Set[str], bool]:
    """Return the arguments of a class and its bases, and whether it takes no others."""
    taken: Set[str] = set()
    for base in kind.__mro__ if inspect.isclass(kind) else ():
        if '__init__' in vars(base):
            parameters = inspect.signature(base.__init__).parameters.values()
            taken.update(parameter.name for parameter in parameters)
            if not any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in parameters):
                return taken, True
    return taken, False
