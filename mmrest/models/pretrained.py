"""Strict weight loading: weights cover the network, or an error names the matching arch."""

from abc import abstractmethod
from os import PathLike
from typing import ClassVar, Dict, Iterable, Iterator, List, Mapping, Optional, Tuple, Union

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule, PretrainedInit
from mmengine.model.weight_init import update_init_info
from torch import Tensor, nn

from ..checkpoint import CheckpointError, Weights, match, read_weights

InitCfg = Union[dict, List[dict], None]


class StrictPretrained(BaseModule):
    """Module whose ``init_cfg`` of type Pretrained must cover it.

    mmengine loads whatever matches, possibly nothing, and continues.
    """

    scratch_init_cfg: ClassVar[InitCfg] = None
    """Default ``init_cfg`` for training from scratch; torch's defaults apply to other layers."""

    def init_weights(self) -> None:
        """Initialise as `init_cfg` specifies, or from scratch; load weights last."""
        configured, was_init = self.init_cfg, self.is_init
        cfgs = configured if isinstance(configured, (list, tuple)) else [configured or {}]
        self.init_cfg = [cfg for cfg in cfgs if cfg and not is_from_file(cfg)]
        if not configured:
            self.init_cfg = self.scratch_init_cfg
        try:
            super().init_weights()
        finally:
            self.init_cfg = configured
        if was_init:  # as in mmengine, which warns: keep trained weights
            return
        for cfg in filter(is_from_file, cfgs):
            cfg = {key: value for key, value in cfg.items() if key != 'type'}
            self.load_pretrained(cfg.pop('checkpoint'), **cfg)

    def load_pretrained(
        self, path: str, prefix: Optional[str] = None, map_location: str = 'cpu'
    ) -> None:
        """Load all weights from an official or trained checkpoint, or raise an error.

        The checkpoint can be a classifier, detector or segmentor from mmdet, mmseg, detectron2
        or the official code. The backbone is found by its tensor names, and EMA weights are
        preferred. Missing output norms (classification checkpoints have none) and unused tensors
        (heads, and stages or norms that are not built) are logged by name.

        Args:
            path: a file that :func:`mmrest.checkpoint.read_weights` supports.
            prefix: prefix of the backbone's tensor names, for a file with several backbones.
            map_location: as for ``torch.load``.

        Raises:
            CheckpointError: the file cannot be read, a tensor is missing or has the wrong shape,
                or the file has more blocks than the backbone. The message counts the matching
                tensors and names the matching arch.
        """
        tensors, report = self.fit(read_weights(path, prefix, map_location))
        self.load_state_dict(tensors, strict=False)
        print_log(report, logger='current')
        if hasattr(self, '_params_init_info'):  # inside the init_weights of a detector
            update_init_info(self, f'Loaded from {path}')

    @abstractmethod
    def fit(self, weights: Weights) -> Tuple[Dict[str, Tensor], str]:
        """Return the tensors of a file under the names of this module, and a line for the log.

        Raises:
            CheckpointError: as :meth:`load_pretrained`.
        """


def is_from_file(init_cfg: dict) -> bool:
    """Return True if an ``init_cfg`` loads weights."""
    return init_cfg.get('type') in ('Pretrained', 'PretrainedInit', PretrainedInit)


def check_init_cfg(init_cfg: InitCfg) -> None:
    """Raise ValueError if `init_cfg` is not valid for mmengine."""
    for cfg in init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg or {}]:
        if not isinstance(cfg, dict):
            raise ValueError(
                "init_cfg must be a dict such as dict(type='Pretrained', checkpoint=PATH), "
                f'or a list of them, got {init_cfg!r}'
            )
        if is_from_file(cfg):
            _check_from_file(cfg)


def _check_from_file(cfg: dict) -> None:
    checkpoint, prefix = cfg.get('checkpoint'), cfg.get('prefix')
    if not isinstance(checkpoint, (str, PathLike)):
        raise ValueError(f'init_cfg.checkpoint must be a path, got {checkpoint!r} in {cfg}')
    if not isinstance(prefix, (str, type(None))):
        raise ValueError(f'init_cfg.prefix must be a string or None, got {prefix!r} in {cfg}')
    if cfg.keys() - {'type', 'checkpoint', 'prefix', 'map_location'}:
        raise ValueError(
            f'init_cfg of type Pretrained takes checkpoint, prefix and map_location, got {cfg}'
        )


def covering(backbone: nn.Module, weights: Weights) -> Tuple[Dict[str, Tensor], str]:
    """Return the tensors of a :class:`~mmrest.models.pyramid.PyramidBackbone`, and a log line.

    Raises:
        CheckpointError: a tensor other than an output norm is missing, one has another shape, or
            the file has blocks that the backbone lacks.
    """
    stages = range(backbone.num_stages)
    names = {module: f'{name}.' for name, module in backbone.named_modules()}
    norms = tuple(names[norm] for norm in map(backbone.output_norm, stages) if norm is not None)
    blocks = tuple(names[backbone.blocks(stage)] for stage in stages)
    state, family = backbone.state_dict(), type(backbone).__name__
    found = match(
        f'{weights.source} for {family}',
        weights.tensors,
        state,
        is_optional=lambda name: name.startswith(norms),
    )
    # Weights of a deeper network cover this one, but were not trained for it.
    more = [name for name in weights.tensors if name.startswith(blocks) and name not in state]
    if more:
        raise CheckpointError(
            f'{weights.source} contains {len(more)} tensors of blocks that this {family} does not '
            f'have ({more[0]}, ...): set arch to the one it was trained with, or pass its weights'
        )
    return found


def recognised(
    tensors: Mapping[str, Tensor], networks: Iterable[Tuple[str, nn.Module]]
) -> List[str]:
    """Return the names, such as ``rmt_b``, of the networks that a set of tensors covers.

    Args:
        tensors: names of a backbone -> tensors; others are ignored.
        networks: candidates, see :func:`named_networks`.
    """
    weights, names = Weights('', dict(tensors)), []
    for name, network in networks:
        try:
            covering(network, weights)
        except CheckpointError:
            continue
        names.append(name)
    return names


def named_networks(families: Iterable[type]) -> Iterator[Tuple[str, nn.Module]]:
    """Build every named network of some families on the meta device."""
    for family in families:
        for arch in family.archs:
            with torch.device('meta'):
                yield f'{family.__name__.lower()}_{arch}', family(arch)
