"""RMT classification necks, between the last feature map and the linear layer."""

from typing import Sequence, Tuple

from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..models.pretrained import InitCfg


@MODELS.register_module()
class RMTProjection(BaseModule):
    """RMT classification neck: linear layer, batch norm, SiLU, global average pooling.

    Args:
        in_channels: channels of the last map.
        out_channels: channels of the projected map; 1024 in the official code.
        norm_cfg: norm layer config for mmcv's ``build_norm_layer``.
        init_cfg: as in mmengine; None: truncated normal with std 0.02 for the linear layer.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 1024,
        norm_cfg: dict = dict(type='BN'),  # noqa: B006, nothing changes it
        init_cfg: InitCfg = None,
    ) -> None:
        super().__init__(init_cfg or dict(type='TruncNormal', layer='Linear', std=0.02))
        self.proj = nn.Linear(in_channels, out_channels)
        self.norm = build_norm_layer(norm_cfg, out_channels)[1]
        self.act = nn.SiLU()

    def project(self, x: Tensor) -> Tensor:
        """Project a map (B, in_channels, H, W) to (B, out_channels, H, W)."""
        x = self.proj(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.act(self.norm(x))

    def forward(self, maps: Sequence[Tensor]) -> Tuple[Tensor]:
        """Return the averages (B, out_channels) of the projected map, in a tuple for heads."""
        return (self.project(maps[-1]).mean((2, 3)),)


@MODELS.register_module()
class RMTTokenProjection(RMTProjection):
    """RMT neck for token labelling, which also returns the tokens.

    Args:
        tokens: ``'last'`` returns the tokens of the last map, as the official code does.
            ``'projected'`` returns the tokens of the projected map, which matches the parameter
            count in the authors' S* log.

    For the other arguments, see :class:`RMTProjection`.

    Raises:
        ValueError: `tokens` has an invalid value.
    """

    def __init__(self, *args: object, tokens: str = 'last', **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        if tokens not in ('last', 'projected'):
            raise ValueError(f"tokens must be 'last' or 'projected', got {tokens!r}")
        self.tokens = tokens

    def forward(self, maps: Sequence[Tensor]) -> Tuple[Tensor, Tensor]:
        """Return the averages (B, out_channels) and the tokens (B, C, H, W)."""
        projected = self.project(maps[-1])
        tokens = projected if self.tokens == 'projected' else maps[-1]
        return projected.mean((2, 3)), tokens
