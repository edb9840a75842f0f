"""Check of types and arguments in a config."""

import difflib
import inspect
from importlib.util import find_spec
from typing import Any, Iterator, List, Set, Tuple

from mmengine import registry
from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner, TestLoop, ValLoop
from torch.utils.data import DataLoader

from ..engine.building import find_type
from ..engine.config import dicts
from ..errors import UsageError

OF_DATA = (registry.DATASETS, registry.TRANSFORMS, registry.DATA_SAMPLERS)
"""Registries of the parts of a dataloader, which the rehearsal builds."""

BUILDERS_KEYS = {'type', '_scope_', '_delete_', 'priority', 'convert_to_iter_based', 'by_epoch'}
"""Keys that mmengine removes before it builds a part."""


def check_names(cfg: Config, phases: Tuple[str, ...]) -> None:
    """Check types and arguments of the parts that a run builds late.

    The rehearsal builds the parts of dataloaders, so only misspelt arguments are checked there.

    Args:
        cfg: config of the run.
        phases: phases of the run, of 'train', 'val' and 'test'.

    Raises:
        UsageError: a type is not registered, a package not installed, or an argument unknown.
    """
    for where, part, root in _parts(cfg, phases):
        name = part.get('type')
        kind = find_type(root, name) if isinstance(name, str) else name
        if root is registry.LOOPS and name is None:  # as the Runner
            kind = dict(val_cfg=ValLoop, test_cfg=TestLoop).get(where, EpochBasedTrainLoop)
            kind = kind if part.get('by_epoch', True) else IterBasedTrainLoop
        elif where == 'train_cfg' and 'by_epoch' in part:
            raise UsageError(f'train_cfg has both type={name} and by_epoch; remove one of them')
        if kind is None:
            with root.switch_scope_and_registry(None) as of_scope:
                known = {*of_scope.module_dict, *root.module_dict}
            hint = _hint(str(name), known, 'import its module with custom_imports')
            raise UsageError(f'{where}.type: {name} is not registered; {hint}')
        if root is registry.VISBACKENDS and 'mmengine' in kind.__module__:
            package = kind.__name__[: -len('VisBackend')].lower()  # TensorboardVisBackend's, ...
            if package != 'local' and find_spec(package) is None:
                raise UsageError(
                    f'{where}: {kind.__name__} needs {package}, which is not installed: pip '
                    f'install {package}'
                )
        taken, strict = _arguments(kind)
        if where == 'optim_wrapper':
            taken |= {'constructor', 'paramwise_cfg', 'optimizer'}
        for key in part.keys() - taken - BUILDERS_KEYS:
            strict = strict and root not in (*OF_DATA, registry.MODELS)  # they are built anyway
            if strict or near(key, taken, 0.85):
                raise UsageError(
                    f'{where}.{key}: {kind.__name__} has no such argument; '
                    f'{_hint(key, taken, "remove it")}'
                )


def misspelt_keys(cfg: Config) -> Iterator[str]:
    """Yield warnings about keys of a config that are similar to those of the Runner."""
    known = set(inspect.signature(Runner.__init__).parameters)
    for key in sorted(cfg.keys() - known):
        for similar in near(key, known, 0.9):
            yield f'{key} is not a key of the Runner, which ignores it; did you mean {similar}?'


def _parts(cfg: Config, phases: Tuple[str, ...]) -> Iterator[Tuple[str, dict, Registry]]:
    backbone = cfg.model.get('backbone')
    if backbone and 'type' in backbone:
        yield 'model.backbone', backbone, registry.MODELS
    for phase in phases:
        if cfg.get(f'{phase}_cfg'):
            yield f'{phase}_cfg', cfg[f'{phase}_cfg'], registry.LOOPS
        loader = f'{phase}_dataloader'
        if cfg.get(loader):
            yield loader, dict(cfg[loader], type=DataLoader), registry.DATASETS
        for where, part in dicts(cfg.get(loader), loader):
            for root in OF_DATA:
                if find_type(root, part.get('type')):
                    yield where, part, root
    for key in ('default_hooks', 'custom_hooks'):
        for where, part in dicts(cfg.get(key), key):
            if where.count('.') == 1:
                yield where, part, registry.HOOKS
    if 'train' in phases:
        wrapper = cfg.get('optim_wrapper') or {}
        yield 'optim_wrapper', dict(dict(type='OptimWrapper'), **wrapper), registry.OPTIM_WRAPPERS
        if isinstance(wrapper.get('optimizer'), dict):
            yield 'optim_wrapper.optimizer', wrapper['optimizer'], registry.OPTIMIZERS
        for where, part in dicts(cfg.get('param_scheduler'), 'param_scheduler'):
            yield where, part, registry.PARAM_SCHEDULERS
    for where, part in dicts(cfg.get('visualizer'), 'visualizer'):
        if '.vis_backends.' in where:
            yield where, part, registry.VISBACKENDS


def near(name: str, names: Set[str], cutoff: float = 0.6) -> List[str]:
    """Return the most similar name, if there is one."""
    return difflib.get_close_matches(name, sorted(names), 1, cutoff)


def _hint(name: str, names: Set[str], otherwise: str) -> str:
    similar = near(name, names)
    return f'did you mean {similar[0]}?' if similar else otherwise


def _arguments(kind: Any) -> Tuple[Set[str], bool]:
    """Return the arguments of a class and its bases, and True if it accepts no others."""
    taken: Set[str] = set()
    for base in kind.__mro__ if inspect.isclass(kind) else ():
        if '__init__' in vars(base):
            parameters = inspect.signature(base.__init__).parameters.values()
            taken.update(parameter.name for parameter in parameters)
            if not any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in parameters):
                return taken, True
    return taken, False
