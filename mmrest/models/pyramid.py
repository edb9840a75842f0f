"""Base class of both families, with OpenMMLab's options."""

from abc import abstractmethod
from contextlib import suppress
from numbers import Integral
from typing import Any, Callable, ClassVar, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..checkpoint import CheckpointError, Weights, match
from ..ops.dispatch import exactly_backend, forced_backend, in_graph
from .arch import Arch, Rate, check, is_number, resolve_arch
from .layers import channels_first, channels_last
from .pretrained import InitCfg, StrictPretrained, check_init_cfg


class PyramidBackbone(StrictPretrained):
    """Backbone with up to four stages, at strides 4, 8, 16 and 32 unless the arch sets others.

    A stage consists of an embedding (stem or downsampling), blocks on channels-last maps, and a
    layer norm if the stage is an output. Families have `archs` and a `default_arch`, build these
    modules in :meth:`build`, under the names of the official checkpoints, and return them from
    :meth:`embedding` and :meth:`blocks`, and the names of norms from :meth:`norm_name`.

    Args:
        arch: a name in `archs`, or a dict of architecture fields, in which ``base`` names an arch
            that supplies omitted fields. None uses `default_arch`.
        in_channels: number of image channels.
        out_indices: stages to return, in ascending order and counted from 0; None returns all.
            Later stages are not built.
        drop_path_rate: drop-path rate of the last block; None uses the rate in `arch`.
        frozen_stages: number of stages to freeze, including the stem, embeddings and output
            norms. Frozen parts get no gradients and stay in evaluation mode. 0 freezes only the
            stem, and -1 nothing.
        norm_cfg: ``build_norm_layer`` config for convolutional stems and downsampling.
        norm_eval: keep batch norms in evaluation mode.
        with_cp: recompute each block in the backward pass to save memory.
        output_norms: apply a layer norm to each output, as in the official detectors and
            segmentors; RMT's official classifiers have none.
        norm_in_path: pass the normalised maps of `out_indices` to the next stage, as ResT's
            official detection code does; other stages pass on their map without a norm.
        init_cfg: as in mmengine. With ``dict(type='Pretrained', checkpoint=PATH)`` and an
            optional ``prefix``, the weights must cover the backbone; see
            :meth:`load_pretrained`.

    Attributes:
        out_channels: channels of each output, for necks.
        out_strides: stride of each output.

    Raises:
        ValueError: an argument is invalid; the message names it and the valid choices.
        TypeError: `arch` is not a name or a dict.
    """

    archs: ClassVar[Mapping[str, Arch]] = {}
    """Architectures by name."""

    default_arch: ClassVar[str]
    """Name of the default architecture."""

    def __init__(
        self,
        arch: Union[str, Mapping[str, Any], None] = None,
        in_channels: int = 3,
        out_indices: Optional[Sequence[int]] = None,
        drop_path_rate: Optional[float] = None,
        frozen_stages: int = -1,
        norm_cfg: dict = dict(type='BN'),  # noqa: B006, read only
        norm_eval: bool = False,
        with_cp: bool = False,
        *,
        output_norms: bool = True,
        norm_in_path: bool = False,
        init_cfg: InitCfg = None,
    ) -> None:
        check_init_cfg(init_cfg)
        super().__init__(init_cfg)
        self.arch = resolve_arch(self.default_arch if arch is None else arch, self.archs)
        stages = range(len(self.arch.dims))
        if out_indices is None:
            out_indices = stages
        if drop_path_rate is None:
            drop_path_rate = self.arch.drop_path_rate
        check('in_channels', in_channels, int)
        check('drop_path_rate', drop_path_rate, Rate)
        check('norm_eval', norm_eval, bool)
        check('with_cp', with_cp, bool)
        check('output_norms', output_norms, bool)
        check('norm_in_path', norm_in_path, bool)
        are_stages = isinstance(out_indices, Sequence) and all(
            is_number(index, Integral) and index in stages for index in out_indices
        )
        if not are_stages or not out_indices or list(out_indices) != sorted(set(out_indices)):
            raise ValueError(
                f'out_indices must be an ascending, non-empty choice of {tuple(stages)}, '
                f'got {out_indices!r}'
            )
        frozen_choices = range(-1, len(stages) + 1)
        if not is_number(frozen_stages, Integral) or frozen_stages not in frozen_choices:
            raise ValueError(
                f'frozen_stages must be one of {tuple(frozen_choices)}, got {frozen_stages!r}'
            )
        if norm_in_path and not output_norms:
            raise ValueError('norm_in_path=True needs output_norms=True, got False')
        layer, reason = None, 'not a layer for maps'
        try:
            layer = build_norm_layer(norm_cfg, self.arch.dims[0])[1]
        except Exception as error:  # of a layer with other arguments
            reason = str(error) or type(error).__name__
        if layer is None or type(layer) is nn.LayerNorm:  # which normalises the last axis
            raise ValueError(
                "norm_cfg must be a dict whose type is an mmcv norm layer for maps: 'BN', "
                f"'SyncBN', 'GN' (with num_groups), ..., got {norm_cfg!r}: {reason}"
            )

        self.in_channels = in_channels
        self.norm_cfg = norm_cfg
        self.out_indices = tuple(map(int, out_indices))
        self.num_stages = self.out_indices[-1] + 1
        self.drop_path_rate = drop_path_rate
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        self.output_norms = output_norms
        self.norm_in_path = norm_in_path
        self.out_channels = tuple(self.arch.dims[i] for i in self.out_indices)
        self.out_strides = tuple(self.arch.strides[i] for i in self.out_indices)
        self.build()
        self.train()  # applies frozen_stages and norm_eval

    @abstractmethod
    def build(self) -> None:
        """Add the modules of `num_stages` stages."""

    @abstractmethod
    def embedding(self, stage: int) -> nn.Module:
        """Return the stem (stage 0) or downsampling of `stage`; (B, C, H, W) in and out."""

    @abstractmethod
    def blocks(self, stage: int) -> nn.ModuleList:
        """Return the blocks of `stage`; (B, H, W, C) in and out."""

    @abstractmethod
    def norm_name(self, stage: int) -> str:
        """Return the dotted name of the output norm of `stage`, whether or not it has one."""

    def output_norm(self, stage: int) -> nn.LayerNorm:
        """Return the output norm of a `stage` that has one."""
        return self.get_submodule(self.norm_name(stage))

    def block_inputs(self, stage: int, x: Tensor) -> Tuple[Tensor, ...]:
        """Return additional inputs of each block of `stage` for a map `x` (B, H, W, C)."""
        return ()

    def has_norm(self, stage: int) -> bool:
        """Return True if `stage` has an output norm."""
        return self.output_norms and stage in self.out_indices

    def get_layer_depth(self, param_name: str, prefix: str = '') -> Tuple[int, int]:
        """Return the depth of a parameter and the number of depths.

        Used for layer-wise learning-rate decay. The stem has depth 0, blocks are counted from 1,
        and an embedding between stages has the depth of the block after it. Output norms are
        deepest, because classification checkpoints have none, and so are names without `prefix`,
        such as ``backbone.``, which belong to heads.
        """
        names = {module: f'{prefix}{name}.' for name, module in self.named_modules()}
        depth, deepest = 0, sum(self.arch.depths[: self.num_stages]) + 1
        for stage in range(self.num_stages):
            if param_name.startswith(names[self.embedding(stage)]):
                return depth + (stage > 0), deepest + 1
            for block in self.blocks(stage):
                depth += 1
                if param_name.startswith(names[block]):
                    return depth, deepest + 1
        return deepest, deepest + 1

    def drop_path_rates(self, stage: int) -> List[float]:
        """Return the drop-path rate of each block of `stage`."""
        depths = self.arch.depths
        rates = np.linspace(0, self.drop_path_rate, sum(depths))  # floats, for the meta device
        return rates[sum(depths[:stage]) :][: depths[stage]].tolist()

    def forward(
        self, x: Tensor, after_stem: Optional[Callable[[Tensor], Tensor]] = None
    ) -> Tuple[Tensor, ...]:
        """Return the feature maps of the stages in `out_indices`.

        Args:
            x: images, (B, in_channels, H, W), of any size from 1 x 1.
            after_stem: function applied to the stem's output, (B, C, H, W) in and out; for
                example, to mix tokens across the batch.

        Returns:
            One (B, C_i, ceil(H / s), ceil(W / s)) map per output; s is its stride.

        Raises:
            ValueError: `x` has the wrong shape.
        """
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f'{type(self).__name__} expects images of shape (B, {self.in_channels}, H, W), '
                f'got {tuple(x.shape)}'
            )
        x = channels_first(channels_last(x))  # convolutions keep this layout
        outputs = []
        for stage in range(self.num_stages):
            x = self.embedding(stage)(x)
            if stage == 0 and after_stem is not None:
                x = after_stem(x)
            x = channels_last(x)
            inputs = self.block_inputs(stage, x)
            for block in self.blocks(stage):
                if self.with_cp and torch.is_grad_enabled():
                    x = _checkpoint(block, x, *inputs)
                else:
                    x = block(x, *inputs)
            normed = self.output_norm(stage)(x) if self.has_norm(stage) else x
            if stage in self.out_indices:
                # mmcv's compiled ops, such as RoIAlign, read the memory in this order unchecked.
                outputs.append(normed.permute(0, 3, 1, 2).contiguous())
            x = channels_first(normed if self.norm_in_path else x)
        return tuple(outputs)

    def train(self, mode: bool = True) -> 'PyramidBackbone':
        """Set the mode; frozen parts and, with `norm_eval`, batch norms stay in eval mode."""
        super().train(mode)
        if self.norm_eval:
            for module in self.modules():
                # Every batch norm keeps a running mean: torch's, SyncBN, and mmcv's MMSyncBN,
                # which has no class in common with them.
                if getattr(module, 'running_mean', None) is not None:
                    module.eval()
        frozen = [self.embedding(0)] if self.frozen_stages >= 0 else []
        for stage in range(min(self.frozen_stages, self.num_stages)):
            frozen += [self.embedding(stage), self.blocks(stage)]
            if self.has_norm(stage):
                frozen.append(self.output_norm(stage))
        for part in frozen:
            part.eval().requires_grad_(False)
        return self

    def fit(self, weights: Weights) -> Tuple[Dict[str, Tensor], str]:
        weights = weights.of(self.state_dict())
        try:
            return self.match(weights)
        except CheckpointError as error:
            others = {n: o for n, o in named_networks().items() if o.arch != self.arch}
            names = recognised(weights, others)
            if not names:
                raise
            hint = f'it looks like {" or ".join(names)}: set type and arch of the backbone to that'
            raise CheckpointError(f'{error}; {hint}') from error

    def match(self, weights: Weights) -> Tuple[Dict[str, Tensor], str]:
        """Match weights strictly, see :func:`mmrest.checkpoint.match`.

        Output norms may be missing; blocks or other norms that the backbone does not have are an
        error, and so are output norms that it would have to pass maps through.
        """
        names = {module: f'{name}.' for name, module in self.named_modules()}
        stages = range(self.num_stages)
        norms = [f'{self.norm_name(stage)}.' for stage in stages]
        optional = tuple(norm for stage, norm in enumerate(norms) if self.has_norm(stage))
        parts = (self.embedding, self.blocks)
        closed = tuple(names[part(stage)] for part in parts for stage in stages)
        closed += tuple(norms) if self.norm_in_path else ()
        source = f'{weights.source} for {type(self).__name__}'
        return match(source, weights.tensors, self.state_dict(), optional, closed)


def named_networks() -> Dict[str, PyramidBackbone]:
    """Return every named network, such as ``rmt_b``, on the meta device."""
    with torch.device('meta'):
        return {
            f'{family.__name__.lower()}_{arch}': family(arch)
            for family in PyramidBackbone.__subclasses__()
            for arch in family.archs
        }


def recognised(weights: Weights, networks: Mapping[str, PyramidBackbone]) -> List[str]:
    """Return the names of the named networks that weights match."""
    names = []
    for name, network in networks.items():
        with suppress(CheckpointError):
            network.match(weights)
            names.append(name)
    return names


def _checkpoint(block: nn.Module, *inputs: Tensor) -> Tensor:
    """Call a block and recompute it in the backward pass, with the same backend."""
    backend = forced_backend()

    def run(*inputs: Tensor) -> Tensor:
        with exactly_backend(backend):
            return block(*inputs)

    # A graph has no contexts and one backend.
    return checkpoint(block if in_graph() else run, *inputs, use_reentrant=False)
