"""Pictures of predictions while a classifier is evaluated."""

from typing import Any

from mmengine.registry import HOOKS
from mmpretrain.engine import VisualizationHook


@HOOKS.register_module()
class ClassPicturesHook(VisualizationHook):
    """mmpretrain's VisualizationHook, with its arguments, in true colours.

    That one hands the BGR of the pipelines to a visualizer that takes RGB. Where test-time
    augmentation makes several views of an image, the first one is drawn.
    """

    def _draw_samples(self, batch_idx: int, data_batch: dict, *args: Any, **kwargs: Any) -> None:
        inputs = data_batch['inputs']
        if isinstance(inputs[0], (list, tuple)):  # view by view, each of the whole batch
            inputs = inputs[0]
        images = [image.flip(0) for image in inputs]
        super()._draw_samples(batch_idx, dict(data_batch, inputs=images), *args, **kwargs)
