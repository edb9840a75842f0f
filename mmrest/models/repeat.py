"""One map for necks that expect several."""

from typing import Sequence, Tuple

from mmengine.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class RepeatMap(nn.Module):
    """Hands out the last map of a backbone several times.

    mmseg's ``Feature2Pyramid`` makes each of its levels from a map of its own, as many as a plain
    vision transformer with several outputs has; a network of one stage has one.

    Args:
        times: how many maps there shall be.
    """

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def forward(self, maps: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        return (maps[-1],) * self.times
