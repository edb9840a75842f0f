"""What a run builds: its network, without memory or random numbers, and types by name."""

import copy
from typing import Any, Callable, Optional

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope, Registry
from torch import nn

from .config import first_line
from .errors import UsageError


def check_model(cfg: Config) -> nn.Module:
    """Make sure that the model of a config can be built, before anything is written.

    Returns:
        The model, on the meta device where it can be built there, in training mode.

    Raises:
        UsageError: it cannot; the message is the first line of what its constructor says.
    """
    scope = cfg.get('default_scope') or 'mmengine'
    with DefaultScope.overwrite_default_scope(scope):
        try:
            with torch.device('meta'):
                return _built(cfg)
        except Exception:  # a network that computes with values while it is built, or a fault
            pass
        try:
            return _built(cfg)
        except Exception as error:  # whatever a constructor raises
            raise UsageError(
                f'the model of {cfg.filename} cannot be built: {first_line(error)}'
            ) from error


def _built(cfg: Config) -> nn.Module:
    model = MODELS.build(copy.deepcopy(cfg.model))
    model.train()  # which returns nothing for some of mmdet's backbones
    return model


def find_type(root: Registry, name: Optional[str]) -> Optional[Callable[..., Any]]:
    """What a type name stands for in the default scope, as building would have it."""
    if not isinstance(name, str):
        return None
    with root.switch_scope_and_registry(None) as of_scope:
        return of_scope.get(name)
