"""Classifiers that take weights under the names of the released ones, which know no parts."""

from typing import Any, Dict, Optional, Tuple

from mmengine.logging import print_log
from mmengine.model import BaseModel
from torch import Tensor

from ..checkpoint import Weights, match, read_weights
from .pretrained import is_from_file


class ReleasedNames(BaseModel):
    """Mixin of a classifier of backbone, neck and head.

    Its own names are those of mmpretrain (``backbone.patch_embed.proj.0.weight``,
    ``neck.proj.weight``, ``head.fc.weight``). The released code puts everything into one module
    (``patch_embed.proj.0.weight``, ``proj.weight``, ``head.weight``); ``load_state_dict`` takes
    both.
    """

    def own_name(self, name: str) -> str:
        """What the classifier itself calls the tensor of a released name; own names stay."""
        first, _, rest = name.partition('.')
        for part in ('backbone', 'neck'):
            if hasattr(getattr(self, part, None), first):
                return f'{part}.{name}'
        return f'head.fc.{rest}' if first == 'head' and rest in ('weight', 'bias') else name

    def renamed(self, weights: Weights) -> Weights:
        """Weights under the own names."""
        tensors = {self.own_name(name): tensor for name, tensor in weights.tensors.items()}
        return Weights(weights.source, tensors)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        for name in [name for name in state_dict if name.startswith(prefix)]:
            own = prefix + self.own_name(name[len(prefix) :])
            if own != name:
                state_dict[own] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def init_weights(self) -> None:
        """Initialise as `init_cfg` says; weights of a file must cover the whole classifier."""
        configured = self.init_cfg
        cfgs = configured if isinstance(configured, (list, tuple)) else [configured or {}]
        self.init_cfg = [cfg for cfg in cfgs if cfg and not is_from_file(cfg)]
        try:
            super().init_weights()
        finally:
            self.init_cfg = configured
        for cfg in filter(is_from_file, cfgs):
            self.load_pretrained(**{key: cfg[key] for key in cfg if key != 'type'})

    def load_pretrained(
        self,
        checkpoint: str,
        prefix: Optional[str] = None,
        map_location: str = 'cpu',
    ) -> None:
        """Load weights, released ones or those of a run, all of them or none.

        Args:
            checkpoint: a file that :func:`mmrest.checkpoint.read_weights` takes.
            prefix: read only the tensors whose names begin with it, without it.
            map_location: where the file is read to, as for ``torch.load``.

        Raises:
            CheckpointError: the file cannot be read, a tensor is missing or has another shape.
        """
        tensors, report = self.fit(read_weights(checkpoint, prefix, map_location))
        self.load_state_dict(tensors, strict=False)
        print_log(report, logger='current')

    def fit(self, weights: Weights) -> Tuple[Dict[str, Tensor], str]:
        """Choose the tensors of the whole classifier, under either kind of names.

        Returns:
            The tensors and a line about them, see :func:`mmrest.checkpoint.match`.

        Raises:
            CheckpointError: a tensor is missing or has another shape.
        """
        source = f'{weights.source} for {type(self).__name__}'
        return match(source, self.renamed(weights).tensors, self.state_dict())
