"""Strict weight loading: weights cover the network, or an error is raised."""

from abc import abstractmethod
from os import PathLike
from typing import ClassVar, Dict, Iterator, List, Optional, Tuple, Union

from mmengine.logging import print_log
from mmengine.model import BaseModule, ModuleDict
from mmengine.model.weight_init import update_init_info
from torch import Tensor, nn

from ..checkpoint import CheckpointError, Weights, read_weights

InitCfg = Union[dict, List[dict], None]


class StrictPretrained(BaseModule):
    """Module whose ``init_cfg`` of type Pretrained must cover it.

    mmengine loads whatever matches, possibly nothing, and continues.
    """

    scratch_init_cfg: ClassVar[InitCfg] = None
    """Default ``init_cfg`` for training from scratch; torch's defaults apply to other layers."""

    def init_weights(self) -> None:
        """Initialise as `init_cfg` specifies, or from scratch; load weights last."""
        # mmengine logs what the outermost module did, which must be after its files are loaded.
        if not (hasattr(self, '_params_init_info') or self.is_init):
            ModuleDict({'model': self}).init_weights()
            return
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
        self.is_init = False  # if this fails, the next call tries again
        for cfg in filter(is_from_file, cfgs):
            cfg = {key: value for key, value in cfg.items() if key != 'type'}
            self.load_pretrained(cfg.pop('checkpoint'), **cfg)
        self.is_init = True

    def load_pretrained(
        self, path: str, prefix: Optional[str] = None, map_location: str = 'cpu'
    ) -> None:
        """Load all weights from an official or trained checkpoint, or raise an error.

        The checkpoint can be a classifier, detector or segmentor from mmdet, mmseg, detectron2
        or the official code. The backbone is located by its tensor names, and EMA weights are
        preferred. Missing output norms (classification checkpoints have none) and unused tensors
        (heads, stages that are not built, norms outside the path) are logged by name.

        Args:
            path: a file that :func:`mmrest.checkpoint.read_weights` supports.
            prefix: prefix of the backbone's tensor names, for a file with several backbones.
            map_location: as for ``torch.load``.

        Raises:
            CheckpointError: the file cannot be read, a tensor is missing or has the wrong shape,
                the file has blocks or norms that the backbone lacks, or the backbone is on the
                meta device. The message counts the matching tensors and names the matching arch.
        """
        if any(parameter.is_meta for parameter in self.parameters()):
            raise CheckpointError(
                f"{path} cannot be loaded into a network on meta: call to_empty(device='cpu')"
            )
        tensors, summary = self.fit(read_weights(path, prefix, map_location))
        self.load_state_dict(tensors, strict=False)
        print_log(summary, logger='current')
        if hasattr(self, '_params_init_info'):  # inside init_weights
            update_init_info(self, f'Loaded from {path}')

    @abstractmethod
    def fit(self, weights: Weights) -> Tuple[Dict[str, Tensor], str]:
        """Return the tensors of a file under the names of this module, and a line for the log.

        Raises:
            CheckpointError: as :meth:`load_pretrained`.
        """


def is_from_file(init_cfg: dict) -> bool:
    """Return True if an ``init_cfg`` loads weights."""
    kind = init_cfg.get('type')  # a name, perhaps with its module, or a class
    name = str(getattr(kind, '__name__', kind)).rpartition('.')[2]
    return name in ('Pretrained', 'PretrainedInit')


def from_files(model: nn.Module) -> Iterator[Tuple[str, nn.Module, dict]]:
    """Yield name, module and init_cfg of the parts of a network initialised from files."""
    for name, module in model.named_modules():
        cfgs = getattr(module, 'init_cfg', None) or ()
        for cfg in cfgs if isinstance(cfgs, (list, tuple)) else (cfgs,):
            if isinstance(cfg, dict) and is_from_file(cfg):
                yield name, module, cfg


def check_init_cfg(init_cfg: InitCfg) -> None:
    """Raise ValueError if `init_cfg` is not valid for mmengine."""
    for cfg in init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg or {}]:
        is_valid = isinstance(cfg, dict) and ('type' in cfg or not cfg)
        if is_valid and is_from_file(cfg):
            is_valid = (
                isinstance(cfg.get('checkpoint'), (str, PathLike))
                and isinstance(cfg.get('prefix'), (str, type(None)))
                and cfg.keys() <= {'type', 'checkpoint', 'prefix', 'map_location'}
            )
        if not is_valid:
            raise ValueError(
                "init_cfg must be a dict such as dict(type='Pretrained', checkpoint=PATH), with "
                'a string as prefix and a map_location if needed, or a list of dicts, '
                f'got {init_cfg!r}'
            )
