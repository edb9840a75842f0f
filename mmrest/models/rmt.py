"""RMT: retentive networks meet vision transformers (CVPR 2024).

Read from top to bottom: archs, stems and downsampling, position tables, attention, block, stage,
pyramid. The modules carry the tensor names of the released checkpoints, which call attention
"retention".
"""

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks import DropPath
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..ops import PositionTables, in_graph, is_compiling, masa, position_tables
from .arch import Arch, is_number, is_positive_int, resolve_arch
from .pyramid import InitCfg, PyramidBackbone, channels_first


@dataclass(frozen=True)
class RMTArch(Arch):
    """Fields of an RMT architecture; a tuple holds one entry a stage.

    Attributes:
        ffn_ratios: hidden channels of the FFN as a multiple of its input's.
        decay_a: a of the decay ``gamma_i = 1 - 2^(-a - (b - a) i / n)`` of head i of n.
        decay_b: b of that decay.
        axial: whether MaSA is decomposed along the two axes, rather than full.
        layer_scale: what the layer scale starts with, None for a stage without one.
        decay: whether MaSA decays with the distance, rather than with gamma = 1.
        lce: whether MaSA adds the depthwise convolution of its values.
        cpe: whether a block begins by adding a depthwise convolution of its map.
        conv_ffn: whether the FFN has a depthwise convolution, rather than being a plain MLP.
        conv_stem: whether the stem is four 3x3 convolutions, rather than one map of each patch.
        conv_downsample: whether a 3x3 convolution leads into a stage, rather than Swin's merging.
        patch_size: side of a patch and stride of the first stage, 4 with a convolutional stem.
        patch_norm: whether a layer norm follows the map of the patches; the convolutional stem
            has norms of its own.
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
        self.check_per_stage('ffn_ratios', _is_positive, 'positive numbers')
        for dim, ratio in zip(self.dims, self.ffn_ratios):
            if int(dim * ratio) < 1:
                raise ValueError(f'arch: ffn_ratios {ratio} of {dim} channels leaves none')
        if not _is_positive(self.decay_a):
            raise ValueError(f'arch: decay_a must be a positive number, got {self.decay_a!r}')
        self.check_per_stage(
            'decay_b',
            lambda b: is_number(b) and b >= self.decay_a,
            f'numbers from decay_a={self.decay_a} up',
        )
        self.check_per_stage('axial', lambda axial: isinstance(axial, bool), 'True or False')
        self.check_per_stage(
            'layer_scale', lambda scale: scale is None or is_number(scale), 'numbers or None'
        )
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is bool and not isinstance(value, bool):
                raise ValueError(f'arch: {field.name} must be True or False, got {value!r}')
        if not is_positive_int(self.patch_size):
            raise ValueError(
                f'arch: patch_size must be a positive integer, got {self.patch_size!r}'
            )
        if self.conv_stem and self.patch_size != 4:
            raise ValueError(
                'arch: patch_size must be 4 with the convolutional stem, got '
                f'{self.patch_size}; set conv_stem=False for another'
            )
        if self.conv_stem and not self.patch_norm:
            raise ValueError(
                'arch: patch_norm must be True with the convolutional stem, which has norms of '
                'its own, got False; set conv_stem=False to leave the norm out'
            )
        for stage, (dim, heads) in enumerate(zip(self.dims, self.num_heads)):
            if dim // heads % 2:
                raise ValueError(
                    f'arch: dims[{stage}]={dim} with num_heads[{stage}]={heads} gives heads of '
                    f'{dim // heads} channels; the rotation pairs channels, so it must be even'
                )

    @property
    def stem_stride(self) -> int:
        return self.patch_size

    @property
    def halves_first_dim(self) -> bool:
        return self.conv_stem


def _is_positive(value: Any) -> bool:
    return is_number(value) and value > 0


PLAIN = dict.fromkeys(('lce', 'cpe', 'conv_ffn', 'conv_stem', 'conv_downsample'), False)
"""Without the convolutions of RMT."""

SWIN_T = RMTArch(
    dims=(96, 192, 384, 768),
    depths=(2, 2, 6, 2),
    num_heads=(3, 6, 12, 24),
    ffn_ratios=(4, 4, 4, 4),
    decay_b=(8, 8, 8, 8),
    drop_path_rate=0.2,
    **PLAIN,
)

ARCHS = {
    't': RMTArch(
        dims=(64, 128, 256, 512),
        depths=(2, 2, 8, 2),
        num_heads=(4, 4, 8, 16),
        ffn_ratios=(3, 3, 3, 3),
        axial=(True, True, False, False),
        drop_path_rate=0.1,
    ),
    's': RMTArch(
        dims=(64, 128, 256, 512),
        depths=(3, 4, 18, 4),
        num_heads=(4, 4, 8, 16),
        drop_path_rate=0.15,
    ),
    'b': RMTArch(
        dims=(80, 160, 320, 512),
        depths=(4, 8, 25, 8),
        num_heads=(5, 5, 10, 16),
        decay_b=(7, 7, 8, 8),
        layer_scale=(None, None, 1e-6, 1e-6),
        drop_path_rate=0.4,
    ),
    'l': RMTArch(
        dims=(112, 224, 448, 640),
        depths=(4, 8, 25, 8),
        num_heads=(7, 7, 14, 20),
        decay_b=(8, 8, 8, 8),
        layer_scale=(None, None, 1e-6, 1e-6),
        drop_path_rate=0.5,
    ),
    # The paper's ablation networks, as near as possible to Swin and DeiT.
    'swin_t': SWIN_T,
    'swin_s': replace(SWIN_T, depths=(2, 2, 18, 2), drop_path_rate=0.3),
    'deit_s': RMTArch(
        dims=(384,),
        depths=(12,),
        num_heads=(6,),
        ffn_ratios=(4,),
        decay_b=(8,),
        axial=(False,),
        layer_scale=(None,),
        patch_size=16,
        patch_norm=False,
        drop_path_rate=0.1,
        **PLAIN,
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
    """Stem of DeiT and Swin: a linear map of each patch, (B, C, H, W)."""

    def __init__(self, in_channels: int, dim: int, patch_size: int, has_norm: bool) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, dim, patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(dim) if has_norm else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(_padded(x, self.patch_size))
        return x if self.norm is None else channels_first(self.norm(x.permute(0, 2, 3, 1)))


def _padded(x: Tensor, multiple: int) -> Tensor:
    """`x` (B, C, H, W), with zeros at bottom and right up to a multiple of rows and columns."""
    # Of positive numbers, because ONNX divides towards zero.
    down, right = ((side + multiple - 1) // multiple * multiple - side for side in x.shape[2:])
    # A graph is for sizes that need the zeros, too.
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
    """Downsampling of Swin: a norm and a linear map of each 2x2 tokens, (B, C, H, W)."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * in_dim)
        self.reduction = nn.Linear(4 * in_dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = _padded(x, 2).permute(0, 2, 3, 1)
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # B H/2 2 W/2 2 C
        x = x.permute(0, 1, 3, 4, 2, 5).flatten(3)  # by column, row and channel, as Swin has them
        return channels_first(self.reduction(self.norm(x)))


def _stem(arch: RMTArch, in_channels: int, norm_cfg: dict) -> Union[ConvStem, PatchEmbed]:
    if arch.conv_stem:
        return ConvStem(in_channels, arch.dims[0], norm_cfg)
    return PatchEmbed(in_channels, arch.dims[0], arch.patch_size, arch.patch_norm)


def _downsampling(arch: RMTArch, stage: int, norm_cfg: dict) -> Union[Downsample, PatchMerging]:
    """What leads from `stage` into the next one."""
    in_dim, dim = arch.dims[stage : stage + 2]
    return Downsample(in_dim, dim, norm_cfg) if arch.conv_downsample else PatchMerging(in_dim, dim)


class DWConv2d(nn.Module):
    """Depthwise convolution of a channels-last map (B, H, W, C)."""

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(channels_first(x)).permute(0, 2, 3, 1)


class RelPos2d:
    """Makes the position tables of a stage, and keeps those of the last size and device.

    They are derived, so neither the state dict nor a copy or pickle of the model holds them, and
    no cast of the model changes their type: flat positions reach 66,800 at 800 x 1333, beyond
    float16.

    Args:
        head_dim: channels of a head.
        num_heads: heads.
        a: a of the decay, see :class:`RMTArch`.
        b: b of the decay.
        decay: whether there is one.
    """

    def __init__(
        self, head_dim: int, num_heads: int, a: float, b: float, decay: bool = True
    ) -> None:
        self.head_dim = head_dim
        self.num_heads = num_heads
        self.a = a
        self.b = b
        self.decay = decay
        self._kept: Dict[Tuple[int, int, torch.device], PositionTables] = {}

    def __call__(self, height: int, width: int, device: torch.device) -> PositionTables:
        if is_compiling():  # sizes may be symbols, and a graph keeps nothing
            return self._make(height, width, device)
        key = (height, width, device)
        kept = self._kept.get(key)
        if kept is not None:
            return kept
        # Tables made in inference mode could not take part in a later training step.
        with torch.inference_mode(False):
            tables = self._make(height, width, device)
        if type(tables.sin) is Tensor:  # not one that a tracer put in its place
            self._kept = {key: tables}
        return tables

    def _make(self, height: int, width: int, device: torch.device) -> PositionTables:
        # The order of operations and the type are those of the released code: at position 66,800
        # the last bit of a frequency moves the angle by several milliradians.
        cpu = dict(device='cpu', dtype=torch.float32)
        frequencies = 1.0 / 10000 ** torch.linspace(0, 1, self.head_dim // 2, **cpu)
        head = torch.arange(self.num_heads, **cpu)
        log_gamma = torch.log(1 - 2 ** (-self.a - (self.b - self.a) * head / self.num_heads))
        if not self.decay:
            log_gamma = torch.zeros_like(log_gamma)
        return position_tables(frequencies.to(device), log_gamma.to(device), height, width)

    def __getstate__(self) -> Dict[str, Any]:
        return dict(self.__dict__, _kept={})


class MaSA(nn.Module):
    """Manhattan self-attention on a map (B, H, W, C), full or axial.

    ``softmax(Q K^T / sqrt(d) + log D) V + LCE(V)``, with Q and K rotated by their position and D
    the decay in the Manhattan distance, as the released code has it; the paper multiplies the
    softmax by D. LCE is a depthwise convolution (`lepe`). :func:`mmrest.ops.masa.masa` computes
    the attention.
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
        """Queries, keys and values, (B, H, W, n, C / n) each."""
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        return self._split_heads(q), self._split_heads(k), self._split_heads(v)

    def _split_heads(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, n, C / n)."""
        return x.unflatten(-1, (self.num_heads, -1))


class FFN(nn.Module):
    """Feed-forward network, with a depthwise convolution on its hidden map or without."""

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


class Block(nn.Module):
    """RMT block on a map (B, H, W, C): CPE, MaSA and FFN.

    Args:
        arch: the architecture.
        stage: in which of its stages this is, counted from 0.
        drop_path: drop-path rate.
    """

    def __init__(self, arch: RMTArch, stage: int, drop_path: float) -> None:
        super().__init__()
        dim, layer_scale = arch.dims[stage], arch.layer_scale[stage]
        self.pos = DWConv2d(dim, 3) if arch.cpe else None  # CPE
        self.retention_layer_norm = nn.LayerNorm(dim, eps=1e-6)
        self.retention = MaSA(dim, arch.num_heads[stage], arch.axial[stage], arch.lce)
        self.final_layer_norm = nn.LayerNorm(dim, eps=1e-6)
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


class Stage(nn.Module):
    """Blocks of one resolution, what they share of positions, and the way to the next stage.

    Args:
        arch: the architecture.
        stage: which of its stages this is, counted from 0.
        drop_path_rates: drop-path rate of each block.
        downsample: embedding of the next stage, None where that is not built.
    """

    def __init__(
        self,
        arch: RMTArch,
        stage: int,
        drop_path_rates: Sequence[float],
        downsample: Union[Downsample, PatchMerging, None],
    ) -> None:
        super().__init__()
        num_heads = arch.num_heads[stage]
        head_dim, b = arch.dims[stage] // num_heads, arch.decay_b[stage]
        self.rel_pos = RelPos2d(head_dim, num_heads, arch.decay_a, b, arch.decay)
        self.blocks = nn.ModuleList(Block(arch, stage, rate) for rate in drop_path_rates)
        self.downsample = downsample

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        # Released files hold what RelPos2d derives; it is accepted and not needed.
        for name in ('angle', 'decay'):
            state_dict.pop(f'{prefix}Relpos.{name}', None)
        super()._load_from_state_dict(state_dict, prefix, *args)


@MODELS.register_module()
class RMT(PyramidBackbone):
    """RMT backbone (https://arxiv.org/abs/2309.11523).

    Args:
        arch: ``'t'``, ``'s'``, ``'b'``, ``'l'``, the ablation networks ``'swin_t'``, ``'swin_s'``
            and ``'deit_s'``, or a dict of the fields of :class:`RMTArch`; one with ``base='s'``
            holds what differs from that arch.
        output_norms: whether outputs are normed, as in the released detectors and segmentors;
            the released classifiers have no such norms.

    The other arguments, the attributes, the outputs and the errors are those of
    :class:`~mmrest.models.pyramid.PyramidBackbone`.
    """

    # Convolutions begin as torch starts them.
    scratch_init_cfg: ClassVar[InitCfg] = [dict(type='TruncNormal', layer='Linear', std=0.02)]

    archs: ClassVar[Mapping[str, RMTArch]] = ARCHS

    def __init__(
        self,
        arch: Union[str, Mapping[str, Any]] = 's',
        in_channels: int = 3,
        out_indices: Optional[Sequence[int]] = None,
        drop_path_rate: Optional[float] = None,
        frozen_stages: int = -1,
        norm_cfg: dict = dict(type='BN'),  # noqa: B006, nothing changes it
        norm_eval: bool = False,
        with_cp: bool = False,
        output_norms: bool = True,
        init_cfg: InitCfg = None,
    ) -> None:
        arch = resolve_arch(arch, ARCHS, RMTArch)
        super().__init__(
            arch,
            in_channels=in_channels,
            out_indices=out_indices,
            drop_path_rate=drop_path_rate,
            frozen_stages=frozen_stages,
            norm_cfg=norm_cfg,
            norm_eval=norm_eval,
            with_cp=with_cp,
            init_cfg=init_cfg,
        )
        self.patch_embed = _stem(arch, in_channels, norm_cfg)
        self.layers = nn.ModuleList()
        self.extra_norms = nn.ModuleDict()
        for stage in range(self.num_stages):
            is_last = stage + 1 == self.num_stages
            downsample = None if is_last else _downsampling(arch, stage, norm_cfg)
            self.layers.append(Stage(arch, stage, self.drop_path_rates(stage), downsample))
            if output_norms and self.has_norm(stage):
                # A dict, so that the names keep the stage's number.
                self.extra_norms[str(stage)] = nn.LayerNorm(arch.dims[stage])
        self.train()  # frozen parts and norm_eval hold from the start

    def embedding(self, stage: int) -> nn.Module:
        return self.layers[stage - 1].downsample if stage > 0 else self.patch_embed

    def blocks(self, stage: int) -> nn.ModuleList:
        return self.layers[stage].blocks

    def block_inputs(self, stage: int, x: Tensor) -> Tuple[PositionTables]:
        return (self.layers[stage].rel_pos(x.shape[1], x.shape[2], x.device),)

    def output_norm(self, stage: int) -> Optional[nn.LayerNorm]:
        name = str(stage)
        return self.extra_norms[name] if name in self.extra_norms else None
