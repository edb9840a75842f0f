"""Image classifiers of mmpretrain that take the weights of the released ones."""

from mmengine.registry import MODELS
from mmpretrain.models import ImageClassifier

from ..models.released import ReleasedNames


@MODELS.register_module()
class ReleasedClassifier(ReleasedNames, ImageClassifier):
    """mmpretrain's ImageClassifier, with its arguments, that loads released files whole.

    Those of RMT have an :class:`~mmrest.models.projection.RMTProjection` for neck, those of ResT a
    global average; the head of both is one linear layer.
    """
