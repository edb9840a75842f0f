"""Misspelt arguments of a config's parts, found before anything is built."""

import difflib
import inspect
from typing import Any, Callable, Iterator, Optional, Set, Tuple

from mmengine import registry
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DefaultScope
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch.utils.data import DataLoader

from .config import dicts, type_name
from .errors import UsageError

REGISTRIES = (
    registry.DATASETS,
    registry.TRANSFORMS,
    registry.DATA_SAMPLERS,
    registry.LOOPS,
    registry.OPTIMIZERS,
    registry.OPTIM_WRAPPERS,
    registry.PARAM_SCHEDULERS,
    registry.HOOKS,
    registry.METRICS,
)

BUILDERS_KEYS = {'type', '_scope_', '_delete_', 'priority', 'convert_to_iter_based'}
"""Keys that mmengine takes out before it calls what is built."""

OPTIM_WRAPPER_KEYS = {'constructor', 'paramwise_cfg', 'optimizer'}
DATALOADER_KEYS = {'num_batch_per_epoch'}


def check_arguments(cfg: Config, phases: Tuple[str, ...]) -> None:
    """Make sure that the parts of a run, its model aside, know the arguments they are given.

    Only what cannot be called that way is refused: a part whose type is not found, or that takes
    any argument, passes.

    Args:
        cfg: config of the run.
        phases: which of 'train', 'val' and 'test' it goes through.

    Raises:
        UsageError: a part does not know an argument; the message names both.
    """
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmengine'):
        for where, part, known in _parts(cfg, phases):
            for name in part:
                if name not in known | BUILDERS_KEYS:
                    near = difflib.get_close_matches(name, known, 1)
                    hint = f'did you mean {near[0]}?' if near else 'leave it out'
                    kind = type_name(part) or where.rpartition('.')[2]
                    raise UsageError(f'{where}.{name}: {kind} knows no such argument; {hint}')


def _parts(cfg: Config, phases: Tuple[str, ...]) -> Iterator[Tuple[str, dict, Set[str]]]:
    """Parts of a config with their place and the arguments that they know."""
    names = [f'{phase}_{part}' for phase in phases for part in ('dataloader', 'evaluator', 'cfg')]
    if 'train' in phases:
        names += ['optim_wrapper', 'param_scheduler']
    for name in (*names, 'default_hooks', 'custom_hooks'):
        for where, part in dicts(cfg.get(name), name):
            if where == name and name.endswith('_dataloader'):
                known, extra = _parameters(DataLoader), DATALOADER_KEYS
            elif where == 'train_cfg' and 'type' not in part:
                loop = EpochBasedTrainLoop if part.get('by_epoch', True) else IterBasedTrainLoop
                known, extra = _parameters(loop), {'by_epoch'}
            else:
                known = _parameters(find_type(type_name(part)))
                extra = OPTIM_WRAPPER_KEYS if where == 'optim_wrapper' else set()
            if known is not None:
                yield where, part, known | extra


def find_type(name: Optional[str]) -> Optional[Callable[..., Any]]:
    """What a type name stands for, in whatever registry has it; None if none has.

    The default scope is the one that building would have.
    """
    if not isinstance(name, str):
        return None
    found = set()
    for root in REGISTRIES:
        with root.switch_scope_and_registry(None) as of_scope:  # as building does
            found.add(of_scope.get(name))
    found.discard(None)
    return found.pop() if len(found) == 1 else None  # two of one name: leave it to the builders


def _parameters(called: Optional[Callable[..., Any]]) -> Optional[Set[str]]:
    """Names of the arguments that a class takes; None if they may be any.

    Data sets hand what they do not know on to their bases; other classes may swallow it.
    """
    if not inspect.isclass(called):
        return None
    names: Set[str] = set()
    for base in called.__mro__[:-1]:
        if '__init__' not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters.values()
        names.update(p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL))
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            return names
        if not issubclass(called, BaseDataset):
            return None
    return None
