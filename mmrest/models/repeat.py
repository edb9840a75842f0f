"""Neck that repeats one map, for necks that expect several."""

from typing import Sequence, Tuple

from mmengine.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class RepeatMap(nn.Module):
    """Neck that returns the last map of a backbone several times.

    mmseg's ``Feature2Pyramid`` expects one map per level, as from a plain vision transformer with
    several outputs. A network of one stage has one map.

    Args:
        times: number of maps.
    """

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def forward(self, maps: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        return (maps[-1],) * self.times
