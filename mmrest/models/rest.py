"""ResT: an efficient transformer for visual recognition (NeurIPS 2021).

Parameter names match the official checkpoints.
"""

from dataclasses import dataclass
from typing import ClassVar, Mapping, Optional, Tuple

from mmcv.cnn import build_norm_layer
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..ops import emsa, emsa_reference
from .arch import Arch
from .layers import FFN, DropPath, LayerNorm, channels_first
from .pretrained import InitCfg
from .pyramid import PyramidBackbone


@dataclass(frozen=True)
class ResTArch(Arch):
    """ResT architecture fields. Tuples have one entry per stage.

    Attributes:
        sr_ratios: stride of EMSA's key and value reduction; must be 1 or even, so that every
            map keeps at least one token.
        mlp_ratio: ratio of hidden to input channels in the MLP.
    """

    num_heads: Tuple[int, ...] = (1, 2, 4, 8)
    sr_ratios: Tuple[int, ...] = (8, 4, 2, 1)
    mlp_ratio: float = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        dim, hidden = self.dims[0], int(min(self.dims) * self.mlp_ratio)
        self.require(dim % 2 == 0, f'dims[0] must be even for the stem, got {dim}')
        valid = all(ratio == 1 or ratio % 2 == 0 for ratio in self.sr_ratios)
        self.require(valid, f'sr_ratios must be 1 or even, got {self.sr_ratios}')
        message = f'mlp_ratio {self.mlp_ratio} gives no hidden channels for dims {self.dims}'
        self.require(hidden > 0, message)


ARCHS = {
    'lite': ResTArch((64, 128, 256, 512), (2, 2, 2, 2), drop_path_rate=0.1),
    'small': ResTArch((64, 128, 256, 512), (2, 2, 6, 2), drop_path_rate=0.1),
    'base': ResTArch((96, 192, 384, 768), (2, 2, 6, 2), drop_path_rate=0.2),
    'large': ResTArch((96, 192, 384, 768), (2, 2, 18, 2), drop_path_rate=0.2),
}


class PixelAttention(nn.Module):
    """Position encoding ``x * sigmoid(DWConv(x))`` of a map (B, C, H, W)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.pa_conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.pa_conv(x).sigmoid()


class Stem(nn.Module):
    """Three 3x3 convolutions to a quarter of the resolution, then pixel attention."""

    def __init__(self, in_channels: int, dim: int, norm_cfg: dict) -> None:
        super().__init__()
        hidden = dim // 2
        self.conv1 = nn.Conv2d(in_channels, hidden, 3, stride=2, padding=1, bias=False)
        self.norm1 = build_norm_layer(norm_cfg, hidden)[1]
        self.conv2 = nn.Conv2d(hidden, hidden, 3, padding=1, bias=False)
        self.norm2 = build_norm_layer(norm_cfg, hidden)[1]
        self.conv3 = nn.Conv2d(hidden, dim, 3, stride=2, padding=1, bias=False)
        self.act = nn.ReLU(inplace=True)
        self.pos = PixelAttention(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm1(self.conv1(x)))
        x = self.act(self.norm2(self.conv2(x)))
        return self.pos(self.conv3(x))  # without norm or activation, as in the official code


class PatchEmbed(nn.Module):
    """Downsampling between stages: 3x3 convolution of stride 2, norm, pixel attention."""

    def __init__(self, in_dim: int, dim: int, norm_cfg: dict) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_dim, dim, 3, stride=2, padding=1)
        self.norm = build_norm_layer(norm_cfg, dim)[1]
        self.pos = PixelAttention(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.pos(self.norm(self.conv(x)))


class EMSA(nn.Module):
    """Efficient multi-head self-attention on a map (B, H, W, C).

    ``IN(softmax(Conv(Q K^T / sqrt(d)))) V``: every token is a query; keys and values come from a
    map reduced by a depthwise convolution (`sr`) with stride `sr_ratio`. Conv is a 1x1 convolution
    over the heads (`transform_conv`), and IN an instance norm; a single head has neither.
    :func:`mmrest.ops.emsa.emsa` uses the weights of `transform_conv`, which is called only if it
    was exchanged, or its weight is set when it is called, as by pruning and offloading.
    """

    def __init__(self, dim: int, num_heads: int, sr_ratio: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.sr: Optional[nn.Conv2d] = None
        self.transform_conv: Optional[nn.Conv2d] = None
        if sr_ratio > 1:
            self.sr = nn.Conv2d(
                dim, dim, sr_ratio + 1, stride=sr_ratio, padding=sr_ratio // 2, groups=dim
            )
            self.sr_norm = LayerNorm(dim)
        if num_heads > 1:
            self.transform_conv = nn.Conv2d(num_heads, num_heads, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.attended(*self.projected(x))
        return self.proj(out.transpose(1, 2).reshape(x.shape))

    def projected(self, x: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """Return queries (B, n, H * W, C / n), and keys and values of the reduced map."""
        q = self._split_heads(self.q(x))
        if self.sr is not None:
            x = self.sr_norm(self.sr(channels_first(x)).permute(0, 2, 3, 1))
        k, v = self.kv(x).chunk(2, dim=-1)
        return q, self._split_heads(k), self._split_heads(v)

    def attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the attention of :meth:`projected` maps, (B, n, H * W, C / n)."""
        conv = self.transform_conv
        if conv is None:
            return emsa(q, k, v)
        has_weight = 'weight' in conv._parameters or not conv._forward_pre_hooks
        if type(conv) is nn.Conv2d and 'forward' not in vars(conv) and has_weight:
            return emsa(q, k, v, conv.weight, conv.bias)
        return emsa_reference(q, k, v, mix=conv)

    def _split_heads(self, x: Tensor) -> Tensor:
        """Reshape (B, H, W, C) to (B, n, H * W, C / n)."""
        return x.flatten(1, 2).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Efficient transformer block on a map (B, H, W, C): pre-norm attention and MLP."""

    def __init__(
        self, dim: int, num_heads: int, sr_ratio: int, mlp_ratio: float, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim)
        self.attn = EMSA(dim, num_heads, sr_ratio)
        self.norm2 = LayerNorm(dim)
        self.mlp = FFN(dim, int(dim * mlp_ratio), conv=False)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


@MODELS.register_module()
class ResT(PyramidBackbone):
    """ResT backbone (https://arxiv.org/abs/2105.13677).

    The archs are ``'lite'``, ``'small'``, ``'base'`` and ``'large'``, with the fields of
    :class:`ResTArch`. For arguments, attributes, errors and the forward pass through the stages,
    see :class:`~mmrest.models.pyramid.PyramidBackbone`.
    """

    archs: ClassVar[Mapping[str, ResTArch]] = ARCHS
    default_arch = 'small'
    scratch_init_cfg: ClassVar[InitCfg] = [
        dict(type='TruncNormal', layer=['Linear', 'Conv2d'], std=0.02)
    ]

    def build(self) -> None:
        arch = self.arch
        self.stem = Stem(self.in_channels, arch.dims[0], self.norm_cfg)
        for stage in range(self.num_stages):
            dim, name = arch.dims[stage], stage + 1
            if stage > 0:
                embed = PatchEmbed(arch.dims[stage - 1], dim, self.norm_cfg)
                self.add_module(f'patch_embed_{name}', embed)
            shape = dim, arch.num_heads[stage], arch.sr_ratios[stage], arch.mlp_ratio
            blocks = (Block(*shape, drop_path) for drop_path in self.drop_path_rates(stage))
            self.add_module(f'stage{name}', nn.ModuleList(blocks))
            if self.has_norm(stage):
                self.add_module(self.norm_name(stage), nn.LayerNorm(dim))

    def norm_name(self, stage: int) -> str:
        return 'norm' if stage == len(self.arch.dims) - 1 else f'norm{stage + 1}'

    def embedding(self, stage: int) -> nn.Module:
        return getattr(self, f'patch_embed_{stage + 1}') if stage > 0 else self.stem

    def blocks(self, stage: int) -> nn.ModuleList:
        return getattr(self, f'stage{stage + 1}')
