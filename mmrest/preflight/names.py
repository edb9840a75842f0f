"""Check of types and arguments in a config."""

import difflib
import inspect
import re
from importlib.util import find_spec
from typing import Any, Iterator, List, Set, Tuple

from mmengine import registry
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import Registry
from mmengine.runner import Runner, TestLoop, ValLoop
from torch.utils.data import DataLoader

from ..engine.building import find_type
from ..engine.config import PHASES, dicts
from ..errors import UsageError

PARTS = {
    r'model\.backbone': registry.MODELS,
    r'(train|val|test)_cfg': registry.LOOPS,
    r'(train|val|test)_dataloader': registry.DATASETS,
    r'(default|custom)_hooks\.\w+': registry.HOOKS,
    r'optim_wrapper': registry.OPTIM_WRAPPERS,
    r'optim_wrapper\.optimizer': registry.OPTIMIZERS,
    r'param_scheduler(\.\w+)*': registry.PARAM_SCHEDULERS,
    r'visualizer\.vis_backends\.\d+': registry.VISBACKENDS,
}
"""Regular expression of dotted keys -> registry of the parts there."""

OF_DATA = (registry.DATASETS, registry.TRANSFORMS, registry.DATA_SAMPLERS)
"""Registries of the parts of a dataloader, which the rehearsal builds."""

DEFAULTS = dict(val_cfg=ValLoop, test_cfg=TestLoop, optim_wrapper=OptimWrapper)
"""Dotted key -> class of a part without a type."""

BUILDERS_KEYS = {'type', '_scope_', '_delete_', 'priority', 'convert_to_iter_based', 'by_epoch'}
"""Keys that mmengine removes before it builds a part."""


def check_names(cfg: Config, phases: Tuple[str, ...]) -> None:
    """Check types and arguments of the parts that a run builds late.

    The rehearsal builds the parts of dataloaders, so only misspelt arguments are checked there.

    Raises:
        UsageError: a type is not registered, a package not installed, or an argument unknown.
    """
    for where, part, root in named_parts(cfg, phases):
        if root is registry.PARAM_SCHEDULERS and all(isinstance(v, list) for v in part.values()):
            continue  # those of several optimizers, by name
        name = part.get('type')
        kind = find_type(root, name) if isinstance(name, str) else name or DEFAULTS.get(where)
        if where == 'train_cfg' and 'by_epoch' in part:
            raise UsageError(f'train_cfg has both type={name} and by_epoch; remove one of them')
        if where.endswith('_dataloader'):
            kind = DataLoader
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


def named_parts(cfg: Config, phases: Tuple[str, ...]) -> Iterator[Tuple[str, dict, Registry]]:
    """Yield dotted key, config and registry of the parts of a run."""
    others = tuple(f'{phase}_' for phase in PHASES if phase not in phases)
    others += () if 'train' in phases else ('optim_wrapper', 'param_scheduler')
    for top in [key for key in cfg if not key.startswith(others)]:
        for where, part in dicts(cfg[top], top):
            for pattern, root in PARTS.items():
                if re.fullmatch(pattern, where):
                    yield where, part, root
            for root in OF_DATA if top.endswith('_dataloader') else ():
                if find_type(root, part.get('type')):
                    yield where, part, root


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
