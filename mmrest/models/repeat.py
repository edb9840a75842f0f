"""Neck that repeats one map, for necks that expect several."""

from typing import Sequence, Tuple

from mmengine.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class RepeatMap(nn.Module):
    """Neck that repeats the last map of a backbone.

    mmseg's ``Feature2Pyramid`` expects one map per level, but a single-stage network returns only
    one map.

    Args:
        times: number of copies.
    """

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def forward(self, maps: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        return (maps[-1],) * self.times
