"""Image classifiers of mmpretrain that load official weights, and their visualization."""

from typing import Any

from mmengine.registry import HOOKS, MODELS
from mmpretrain.engine import VisualizationHook
from mmpretrain.models import ImageClassifier

from .released import ReleasedNames


@MODELS.register_module()
class ReleasedClassifier(ReleasedNames, ImageClassifier):
    """mmpretrain's ImageClassifier, with the same arguments, that loads official weights.

    RMT needs an :class:`~mmrest.classification.projection.RMTProjection` as neck, ResT a global
    average; the head of both is one linear layer.
    """


@HOOKS.register_module()
class ClassVisualizationHook(VisualizationHook):
    """mmpretrain's VisualizationHook, with the same arguments, in true colours.

    mmpretrain's passes the BGR of the pipelines to a visualizer that expects RGB. With test-time
    augmentation, the first view of an image is drawn.
    """

    def _draw_samples(self, batch_idx: int, data_batch: dict, *args: Any, **kwargs: Any) -> None:
        inputs = data_batch['inputs']
        if isinstance(inputs[0], (list, tuple)):  # one batch per view
            inputs = inputs[0]
        images = [image.flip(0) for image in inputs]
        super()._draw_samples(batch_idx, dict(data_batch, inputs=images), *args, **kwargs)
