"""Layers of both families, on channels-last maps."""

from mmcv.cnn import bricks
from torch import Tensor, nn

from ..ops import layer_norm
from ..ops.dispatch import in_graph, is_compiling


class LayerNorm(nn.LayerNorm):
    """torch's layer norm, but half precision stays so under autocast.

    For the inputs of linear layers; see :func:`mmrest.ops.norm.layer_norm`.
    """

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.weight, self.bias, self.eps)


def channels_last(x: Tensor) -> Tensor:
    """Permute (B, C, H, W) to (B, H, W, C); in eager mode contiguous, for norms and sums."""
    x = x.permute(0, 2, 3, 1)
    return x if in_graph() else x.contiguous()


def channels_first(x: Tensor) -> Tensor:
    """Permute (B, H, W, C) to (B, C, H, W) for a convolution, without a copy in eager mode."""
    x = x.permute(0, 3, 1, 2)
    # torch 2.13's inductor raises "ValueRangeError: Invalid ranges [0:-1]" when it compares the
    # strides of a permuted map of dynamic size; it chooses the layout of a copy itself.
    return x.contiguous() if is_compiling() else x


class DropPath(bricks.DropPath):
    """mmcv's drop path (https://arxiv.org/abs/1603.09382), dividing the mask, not the map."""

    def forward(self, x: Tensor) -> Tensor:
        if self.drop_prob == 0 or not self.training:
            return x
        keep_prob = 1 - self.drop_prob
        kept = x.new_empty(x.shape[0], *[1] * (x.dim() - 1)).bernoulli_(keep_prob)
        return x * kept.div_(keep_prob)


class DWConv2d(nn.Module):
    """Depthwise convolution of a channels-last map (B, H, W, C)."""

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(channels_first(x)).permute(0, 2, 3, 1)


class FFN(nn.Module):
    """Feed-forward network, with or without a depthwise convolution on its hidden map."""

    def __init__(self, dim: int, hidden: int, conv: bool) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.dwconv = DWConv2d(hidden, 3) if conv else None
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.fc1(x))
        if self.dwconv is not None:
            x = x + self.dwconv(x)
        return self.fc2(x)
