"""mmpretrain classifiers that load official weights, and their visualization."""

from typing import Any, Dict, Tuple

from mmengine.registry import HOOKS, MODELS
from mmpretrain.engine import VisualizationHook
from mmpretrain.models import ImageClassifier
from torch import Tensor

from ..checkpoint import Weights, match
from ..checkpoint.weights import CONTAINERS, weights_of
from ..models.pretrained import StrictPretrained


@MODELS.register_module()
class ReleasedClassifier(StrictPretrained, ImageClassifier):
    """mmpretrain's ImageClassifier, extended to load official weights; takes the same arguments.

    For RMT, the neck is an :class:`~mmrest.classification.projection.RMTProjection`; for ResT, it
    is global average pooling. Both use one linear layer as the head.

    Parameters have mmpretrain's names (``backbone.patch_embed.proj.0.weight``,
    ``neck.proj.weight``, ``head.fc.weight``). ``load_state_dict`` also accepts the official names
    (``patch_embed.proj.0.weight``, ``proj.weight``, ``head.weight``).
    """

    def own_name(self, name: str) -> str:
        """Return the name in this model of an official or own tensor name."""
        first, _, rest = name.partition('.')
        for part in ('backbone', 'neck'):
            if hasattr(getattr(self, part, None), first):
                return f'{part}.{name}'
        return f'head.fc.{rest}' if first == 'head' and rest in ('weight', 'bias') else name

    def renamed(self, weights: Weights) -> Weights:
        """Return weights under the names of this model."""
        tensors = {self.own_name(name): tensor for name, tensor in weights.tensors.items()}
        return Weights(weights.source, tensors)

    def fit(self, weights: Weights) -> Tuple[Dict[str, Tensor], str]:
        weights = self.renamed(weights)
        if isinstance(self.backbone, StrictPretrained):
            self.backbone.fit(weights.under('backbone'))  # its error names the weights' network
        source = f'{weights.source} for {type(self).__name__}'
        return match(source, weights.tensors, self.state_dict())

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        if any(isinstance(state_dict.get(name), dict) for name in CONTAINERS):
            # mmengine's loader opens only 'state_dict'.
            tensors = weights_of('the checkpoint', state_dict).tensors
            state_dict.clear()
            state_dict.update(tensors)
        for name in [name for name in state_dict if name.startswith(prefix)]:
            state_dict[prefix + self.own_name(name[len(prefix) :])] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *args)


@HOOKS.register_module()
class ClassVisualizationHook(VisualizationHook):
    """mmpretrain's VisualizationHook with correct colours; takes the same arguments.

    mmpretrain's hook passes BGR images to a visualizer that expects RGB. With test-time
    augmentation, this hook draws the first view of each image.
    """

    def _draw_samples(self, batch_idx: int, data_batch: dict, *args: Any, **kwargs: Any) -> None:
        inputs = data_batch['inputs']
        if isinstance(inputs[0], (list, tuple)):  # one batch per view
            inputs = inputs[0]
        images = [image.flip(0) for image in inputs]
        super()._draw_samples(batch_idx, dict(data_batch, inputs=images), *args, **kwargs)
