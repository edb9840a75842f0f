"""RMT: retentive networks meet vision transformers (CVPR 2024).

Parameter names match the official checkpoints, which call attention "retention".
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, List, Mapping, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..ops import PositionTables, RelPos2d, masa
from ..ops.dispatch import in_graph
from .arch import Arch
from .layers import FFN, DropPath, DWConv2d, LayerNorm, channels_first, channels_last
from .pretrained import InitCfg
from .pyramid import PyramidBackbone


@dataclass(frozen=True)
class RMTArch(Arch):
    """RMT architecture fields. Tuples have one entry per stage.

    Attributes:
        ffn_ratios: ratio of hidden to input channels in the FFN.
        decay_a: a in the decay ``gamma_i = 1 - 2^(-a - (b - a) i / n)`` of head i of n.
        decay_b: b in the same formula.
        axial: decompose MaSA along both axes.
        layer_scale: initial layer scale, or None for no layer scale.
        decay: decay attention with distance; if False, gamma is 1.
        lce: use local context enhancement, a depthwise convolution on MaSA's values.
        cpe: use conditional position encoding, a depthwise convolution before each block.
        conv_ffn: use a depthwise convolution inside the FFN.
        conv_stem: use a stem of four 3x3 convolutions; if False, a linear patch embedding.
        conv_downsample: use a 3x3 convolution between stages; if False, Swin's patch merging.
        patch_size: patch size and stride of the first stage; must be 4 with a convolutional stem.
        patch_norm: apply a layer norm after the linear patch embedding.
    """

    ffn_ratios: Tuple[float, ...] = (4, 4, 3, 3)
    decay_a: float = 2
    decay_b: Tuple[float, ...] = (6, 6, 8, 8)
    axial: Tuple[bool, ...] = (True, True, True, False)
    layer_scale: Tuple[Optional[float], ...] = (None, None, None, None)
    decay: bool = True
    lce: bool = True
    cpe: bool = True
    conv_ffn: bool = True
    conv_stem: bool = True
    conv_downsample: bool = True
    patch_size: int = 4
    patch_norm: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        wide = all(int(dim * ratio) >= 1 for dim, ratio in zip(self.dims, self.ffn_ratios))
        self.require(wide, f'ffn_ratios {self.ffn_ratios} give no hidden channels for {self.dims}')
        for stage, (dim, heads) in enumerate(zip(self.dims, self.num_heads)):
            shape = f'dims[{stage}]={dim} and num_heads[{stage}]={heads} give {dim // heads}'
            self.require(dim // heads % 2 == 0, f'{shape} channels per head, not an even number')
        a, b = self.decay_a, self.decay_b
        self.require(1 - 2.0**-a > 1e-6, f'decay_a={a} makes the first gamma 0; raise it')
        self.require(min(b) >= a, f'decay_b must be at least decay_a={a}, got {b}')
        if self.conv_stem:
            text = 'the convolutional stem has patches of 4 and its own norms: set conv_stem=False'
            self.require(self.patch_size == 4, f'{text} for patch_size={self.patch_size}')
            self.require(self.patch_norm, f'{text} for patch_norm={self.patch_norm}')

    @property
    def stem_stride(self) -> int:
        return self.patch_size


NO_CONVS = dict.fromkeys(('lce', 'cpe', 'conv_ffn', 'conv_stem', 'conv_downsample'), False)

SWIN_T = RMTArch(
    (96, 192, 384, 768),
    (2, 2, 6, 2),
    (3, 6, 12, 24),
    ffn_ratios=(4, 4, 4, 4),
    decay_b=(8, 8, 8, 8),
    drop_path_rate=0.2,
    **NO_CONVS,
)

ARCHS = {
    't': RMTArch(
        (64, 128, 256, 512),
        (2, 2, 8, 2),
        (4, 4, 8, 16),
        ffn_ratios=(3, 3, 3, 3),
        axial=(True, True, False, False),
        drop_path_rate=0.1,
    ),
    's': RMTArch((64, 128, 256, 512), (3, 4, 18, 4), (4, 4, 8, 16), drop_path_rate=0.15),
    'b': RMTArch(
        (80, 160, 320, 512),
        (4, 8, 25, 8),
        (5, 5, 10, 16),
        decay_b=(7, 7, 8, 8),
        layer_scale=(None, None, 1e-6, 1e-6),
        drop_path_rate=0.4,
    ),
    'l': RMTArch(
        (112, 224, 448, 640),
        (4, 8, 25, 8),
        (7, 7, 14, 20),
        decay_b=(8, 8, 8, 8),
        layer_scale=(None, None, 1e-6, 1e-6),
        drop_path_rate=0.5,
    ),
    # Ablations of the paper (Tables 10 to 12): MaSA in Swin and DeiT.
    'swin_t': SWIN_T,
    'swin_s': replace(SWIN_T, depths=(2, 2, 18, 2), drop_path_rate=0.3),
    'deit_s': RMTArch(
        (384,),
        (12,),
        (6,),
        ffn_ratios=(4,),
        decay_b=(8,),
        axial=(False,),
        layer_scale=(None,),
        patch_size=16,
        patch_norm=False,
        drop_path_rate=0.1,
        **NO_CONVS,
    ),
}


class ConvStem(nn.Module):
    """Stem: four 3x3 convolutions to a quarter of the resolution, (B, C, H, W)."""

    def __init__(self, in_channels: int, dim: int, norm_cfg: dict) -> None:
        super().__init__()
        hidden = dim // 2
        layers: List[nn.Module] = []
        for inputs, outputs, stride in (
            (in_channels, hidden, 2),
            (hidden, hidden, 1),
            (hidden, dim, 2),
            (dim, dim, 1),
        ):
            layers += [
                nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1),
                build_norm_layer(norm_cfg, outputs)[1],
                nn.GELU(),
            ]
        self.proj = nn.Sequential(*layers[:-1])  # no activation after the last norm

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class PatchEmbed(nn.Module):
    """Stem of DeiT and Swin: a linear projection of each patch, (B, C, H, W)."""

    def __init__(self, in_channels: int, dim: int, patch_size: int, has_norm: bool) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, dim, patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(dim) if has_norm else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(_padded(x, self.patch_size))
        return x if self.norm is None else channels_first(self.norm(channels_last(x)))


def _padded(x: Tensor, multiple: int) -> Tensor:
    """Pad `x` (B, C, H, W) with zeros at the bottom and right, to a multiple in each axis."""
    # Only positive numbers are divided, because ONNX rounds towards zero.
    down, right = ((side + multiple - 1) // multiple * multiple - side for side in x.shape[2:])
    # A graph must also support sizes that need padding.
    return F.pad(x, (0, right, 0, down)) if in_graph() or down or right else x


class Downsample(nn.Module):
    """Downsampling between stages: 3x3 convolution of stride 2 and norm, (B, C, H, W)."""

    def __init__(self, in_dim: int, dim: int, norm_cfg: dict) -> None:
        super().__init__()
        self.reduction = nn.Conv2d(in_dim, dim, 3, stride=2, padding=1)
        self.norm = build_norm_layer(norm_cfg, dim)[1]

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.reduction(x))


class PatchMerging(nn.Module):
    """Swin's downsampling: norm and linear layer on each group of 2x2 tokens, (B, C, H, W)."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * in_dim)
        self.reduction = nn.Linear(4 * in_dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = _padded(x, 2).permute(0, 2, 3, 1)
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # B H/2 2 W/2 2 C
        x = x.permute(0, 1, 3, 4, 2, 5).flatten(3)  # by column, row and channel, as in Swin
        return channels_first(self.reduction(self.norm(x)))


class MaSA(nn.Module):
    """Manhattan self-attention on a map (B, H, W, C), full or axial.

    ``softmax(Q K^T / sqrt(d) + log D) V + LCE(V)``, with Q and K rotated by their position. D is
    the decay with Manhattan distance, as in the official code; the paper multiplies the softmax
    by D. LCE is a depthwise convolution (`lepe`). :func:`mmrest.ops.masa.masa` computes the
    attention.
    """

    def __init__(self, dim: int, num_heads: int, axial: bool, lce: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.axial = axial
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.lepe = DWConv2d(dim, 5) if lce else None
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, tables: PositionTables) -> Tensor:
        q, k, v = self.projected(x)
        out = masa(q, k, v, tables, self.axial).flatten(-2)
        if self.lepe is not None:
            out = out + self.lepe(v.flatten(-2))
        return self.out_proj(out)

    def projected(self, x: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, (B, H, W, n, C / n) each."""
        heads = self.num_heads, -1
        q = self.q_proj(x).unflatten(-1, heads)
        k = self.k_proj(x).unflatten(-1, heads)
        v = self.v_proj(x).unflatten(-1, heads)
        return q, k, v


class Block(nn.Module):
    """CPE, MaSA and FFN on a map (B, H, W, C)."""

    def __init__(self, arch: RMTArch, stage: int, drop_path: float) -> None:
        super().__init__()
        dim, layer_scale = arch.dims[stage], arch.layer_scale[stage]
        self.pos = DWConv2d(dim, 3) if arch.cpe else None  # CPE
        self.retention_layer_norm = LayerNorm(dim, eps=1e-6)
        self.retention = MaSA(dim, arch.num_heads[stage], arch.axial[stage], arch.lce)
        self.final_layer_norm = LayerNorm(dim, eps=1e-6)
        self.ffn = FFN(dim, int(dim * arch.ffn_ratios[stage]), arch.conv_ffn)
        self.drop_path = DropPath(drop_path)
        self.has_layer_scale = layer_scale is not None  # gamma_1 and gamma_2, not the decay's
        if self.has_layer_scale:
            self.gamma_1 = nn.Parameter(torch.full((1, 1, 1, dim), float(layer_scale)))
            self.gamma_2 = nn.Parameter(torch.full((1, 1, 1, dim), float(layer_scale)))

    def forward(self, x: Tensor, tables: PositionTables) -> Tensor:
        if self.pos is not None:
            x = x + self.pos(x)
        attended = self.retention(self.retention_layer_norm(x), tables)
        x = x + self.drop_path(self.gamma_1 * attended if self.has_layer_scale else attended)
        fed = self.ffn(self.final_layer_norm(x))
        return x + self.drop_path(self.gamma_2 * fed if self.has_layer_scale else fed)


class Stage(nn.ModuleDict):
    """Blocks of one resolution, their position tables, and the embedding of the next stage.

    It is a container without a forward pass, which wrapping policies such as FSDP's must skip.
    """

    def __init__(
        self, arch: RMTArch, stage: int, rates: Sequence[float], downsample: Optional[nn.Module]
    ) -> None:
        super().__init__()
        num_heads = arch.num_heads[stage]
        head_dim, b = arch.dims[stage] // num_heads, arch.decay_b[stage]
        self.rel_pos = RelPos2d(head_dim, num_heads, arch.decay_a, b, arch.decay)
        self.blocks = nn.ModuleList(Block(arch, stage, rate) for rate in rates)
        self.downsample = downsample

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        # RelPos2d computes these buffers of official checkpoints.
        for name in ('angle', 'decay'):
            state_dict.pop(f'{prefix}Relpos.{name}', None)
        super()._load_from_state_dict(state_dict, prefix, *args)


@MODELS.register_module()
class RMT(PyramidBackbone):
    """RMT backbone (https://arxiv.org/abs/2309.11523).

    The archs are ``'t'``, ``'s'``, ``'b'``, ``'l'`` and the ablation networks ``'swin_t'``,
    ``'swin_s'`` and ``'deit_s'``, with the fields of :class:`RMTArch`. For arguments, attributes,
    errors and the forward pass, see :class:`~mmrest.models.pyramid.PyramidBackbone`.
    """

    archs: ClassVar[Mapping[str, RMTArch]] = ARCHS
    default_arch = 's'
    scratch_init_cfg: ClassVar[InitCfg] = [dict(type='TruncNormal', layer='Linear', std=0.02)]

    def build(self) -> None:
        arch, dims, norm_cfg = self.arch, self.arch.dims, self.norm_cfg
        self.patch_embed = (
            ConvStem(self.in_channels, dims[0], norm_cfg)
            if arch.conv_stem
            else PatchEmbed(self.in_channels, dims[0], arch.patch_size, arch.patch_norm)
        )
        reduce = partial(Downsample, norm_cfg=norm_cfg) if arch.conv_downsample else PatchMerging
        self.layers = nn.ModuleList()
        self.extra_norms = nn.ModuleDict()  # keyed by the number of the stage
        for stage in range(self.num_stages):
            is_last = stage + 1 == self.num_stages
            downsample = None if is_last else reduce(dims[stage], dims[stage + 1])
            self.layers.append(Stage(arch, stage, self.drop_path_rates(stage), downsample))
            if self.has_norm(stage):
                self.extra_norms[str(stage)] = nn.LayerNorm(dims[stage])

    def embedding(self, stage: int) -> nn.Module:
        return self.layers[stage - 1].downsample if stage > 0 else self.patch_embed

    def blocks(self, stage: int) -> nn.ModuleList:
        return self.layers[stage].blocks

    def block_inputs(self, stage: int, x: Tensor) -> Tuple[PositionTables]:
        return (self.layers[stage].rel_pos(*x.shape[1:3], x.device),)  # x is (B, H, W, C)

    def norm_name(self, stage: int) -> str:
        return f'extra_norms.{stage}'
