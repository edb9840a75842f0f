"""Types and arguments of a config that no part of the run knows."""

import difflib
import inspect
import re
from importlib.util import find_spec
from typing import Any, Iterator, List, Set, Tuple

from mmengine import registry
from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch.utils.data import DataLoader

from ..engine.building import find_type
from ..engine.config import dicts, type_name
from ..engine.errors import UsageError

_BUILDERS_KEYS = {'type', '_scope_', '_delete_', 'priority', 'convert_to_iter_based', 'by_epoch'}
"""Keys that mmengine takes out before it calls what is built."""


_WRITTEN_THROUGH = {
    'TensorboardVisBackend': 'tensorboard',
    'WandbVisBackend': 'wandb',
    'MLflowVisBackend': 'mlflow',
    'ClearMLVisBackend': 'clearml',
    'NeptuneVisBackend': 'neptune',
    'DVCLiveVisBackend': 'dvclive',
    'AimVisBackend': 'aim',
}
"""Packages that the backends of a visualizer need."""


def check_names(cfg: Config, phases: Tuple[str, ...]) -> None:
    """Make sure that the parts which a run builds late know their types and arguments.

    Data sets, metrics and the network are built by the rehearsal itself.

    Args:
        cfg: config of the run.
        phases: which of 'train', 'val' and 'test' it goes through.

    Raises:
        UsageError: a type is not registered, or does not know an argument.
    """
    for where, part, root in _parts(cfg, phases):
        name = part.get('type')
        kind = find_type(root, name) if isinstance(name, str) else name
        elsewhere = 'import what defines it, with custom_imports'
        if where == 'train_cfg' and name is None:
            kind = EpochBasedTrainLoop if part.get('by_epoch', True) else IterBasedTrainLoop
        elif kind is None and isinstance(name, str):
            raise UsageError(
                f'{where}.type: {name} is not registered; {_hint(name, known(root), elsewhere)}'
            )
        package = _WRITTEN_THROUGH.get(str(type_name(part)))
        if package is not None and find_spec(package) is None:
            raise UsageError(
                f'{where}: {type_name(part)} needs {package}, which is not installed: pip install '
                f'{package}'
            )
        taken, strict = arguments(kind)
        if where == 'optim_wrapper':
            taken |= {'constructor', 'paramwise_cfg', 'optimizer'}
        for key in part:
            if key not in taken | _BUILDERS_KEYS and (strict or _near(key, taken, 0.85)):
                raise UsageError(
                    f'{where}.{key}: {type_name(part) or kind.__name__} knows no such argument; '
                    f'{_hint(key, taken)}'
                )


def _parts(cfg: Config, phases: Tuple[str, ...]) -> Iterator[Tuple[str, dict, Registry]]:
    for phase in phases:
        if cfg.get(f'{phase}_cfg'):
            yield f'{phase}_cfg', cfg[f'{phase}_cfg'], registry.LOOPS
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


def known(root: Registry) -> Set[str]:
    """Names that are registered in the default scope and above it."""
    with root.switch_scope_and_registry(None) as of_scope:
        return {*of_scope.module_dict, *root.module_dict}


def _near(name: str, names: Set[str], cutoff: float = 0.6) -> List[str]:
    return difflib.get_close_matches(name, sorted(names), 1, cutoff)


def _hint(name: str, names: Set[str], otherwise: str = 'leave it out') -> str:
    near = _near(name, names)
    return f'did you mean {near[0]}?' if near else otherwise


def arguments(kind: Any) -> Tuple[Set[str], bool]:
    """Return the arguments of a class and its bases, and whether it takes no others."""
    taken: Set[str] = set()
    for base in kind.__mro__ if inspect.isclass(kind) else ():
        if '__init__' in vars(base):
            parameters = inspect.signature(base.__init__).parameters.values()
            taken.update(parameter.name for parameter in parameters)
            kinds = {parameter.kind for parameter in parameters}
            if not kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}:
                return taken, True
    return taken, False


def check_misspelt(where: str, node: Any, error: Exception) -> None:
    """Explain an argument that a data set, transform, sampler or loader does not know.

    Args:
        where: dotted key of the part.
        node: its config.
        error: what building it raised.

    Raises:
        UsageError: the error is of that kind.
    """
    found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    for place, part in dicts(node, where) if found else ():
        if found.group(1) in part:
            roots = (registry.DATASETS, registry.TRANSFORMS, registry.DATA_SAMPLERS)
            kinds = [find_type(root, type_name(part)) for root in roots]
            kind = next(filter(None, kinds), DataLoader)
            names = set().union(*(arguments(base)[0] for base in kind.__mro__))
            raise UsageError(
                f'{place}.{found.group(1)}: {kind.__name__} knows no such argument; '
                f'{_hint(found.group(1), names)}'
            ) from error
