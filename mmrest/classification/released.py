"""Classifiers that load weights under the official names, which know no parts."""

from typing import Any, Dict, Tuple

from mmengine.model import BaseModel
from torch import Tensor

from ..checkpoint import Weights, match
from ..models.pretrained import StrictPretrained


class ReleasedNames(StrictPretrained, BaseModel):
    """Mixin of a classifier of backbone, neck and head.

    Its own names are those of mmpretrain (``backbone.patch_embed.proj.0.weight``,
    ``neck.proj.weight``, ``head.fc.weight``). The official code has one module
    (``patch_embed.proj.0.weight``, ``proj.weight``, ``head.weight``); ``load_state_dict`` takes
    both.
    """

    def own_name(self, name: str) -> str:
        """Return the name here of an official or own tensor name."""
        first, _, rest = name.partition('.')
        for part in ('backbone', 'neck'):
            if hasattr(getattr(self, part, None), first):
                return f'{part}.{name}'
        return f'head.fc.{rest}' if first == 'head' and rest in ('weight', 'bias') else name

    def renamed(self, weights: Weights) -> Weights:
        """Return weights under the own names."""
        tensors = {self.own_name(name): tensor for name, tensor in weights.tensors.items()}
        return Weights(weights.source, tensors)

    def fit(self, weights: Weights) -> Tuple[Dict[str, Tensor], str]:
        source = f'{weights.source} for {type(self).__name__}'
        return match(source, self.renamed(weights).tensors, self.state_dict())

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        for name in [name for name in state_dict if name.startswith(prefix)]:
            own = prefix + self.own_name(name[len(prefix) :])
            if own != name:
                state_dict[own] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *args)
