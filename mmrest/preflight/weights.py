"""The weights that a run begins with, fitted to the network without loading them into it."""

from pathlib import Path
from typing import Iterator, Optional, Tuple

from mmengine.config import Config
from mmengine.model import BaseTTAModel
from torch import nn

from ..checkpoint import CheckpointError, read_weights, summary
from ..engine.compat import load_guarded
from ..engine.weights import InitWeightsHook, StrictWeightsHook
from ..models.pretrained import fit, is_from_file
from ..models.pyramid import PyramidBackbone
from ..models.released import ReleasedNames
from .files import is_remote
from .report import Report


def check_weights(cfg: Config, model: nn.Module, phases: Tuple[str, ...], report: Report) -> None:
    """Make sure that the weights a run begins with can be read and fit.

    Those of a backbone of mmrest must cover it, as :func:`mmrest.models.pretrained.fit` has it;
    what a training begins from with ``load_from`` must cover the backbone, what it resumes or a
    test takes the whole model. Nothing is fetched: weights at an address are left to the run.

    Args:
        cfg: config of the run.
        model: its network, on any device.
        phases: which of 'train', 'val' and 'test' it goes through.
        report: facts are added to it.

    Raises:
        CheckpointError: a file cannot be read or does not fit.
    """
    while isinstance(model, BaseTTAModel):
        model = model.module
    training = 'train' in phases
    # A run that resumes initialises its network all the same.
    for name, module, init_cfg in from_files(model) if training else ():
        what, path = f'pretrained weights of {name or "the model"}', str(init_cfg['checkpoint'])
        if is_remote(path):
            report.add(what, f'{path}: not looked at, it is not on this machine')
        else:
            report.add(what, _fitted(module, path, init_cfg.get('prefix')))
    path = cfg.get('load_from')
    if not path:
        return
    if is_remote(path):
        report.add('checkpoint', f'{path}: not looked at, it is not on this machine')
        return
    if not training:
        hook = StrictWeightsHook()
    else:
        hook = StrictWeightsHook(resuming=True) if cfg.get('resume') else InitWeightsHook()
    path = str(Path(path).expanduser())
    fitted = hook.fitted(model, path, load_guarded(path, 'cpu'))
    report.add('checkpoint', fitted.report)


def from_files(model: nn.Module) -> Iterator[Tuple[str, nn.Module, dict]]:
    """Find the parts of a network that are initialised from a file: name, part, init_cfg."""
    for name, module in model.named_modules():
        cfgs = getattr(module, 'init_cfg', None) or ()
        for cfg in cfgs if isinstance(cfgs, (list, tuple)) else (cfgs,):
            if isinstance(cfg, dict) and is_from_file(cfg):
                yield name, module, cfg


def _fitted(module: nn.Module, path: str, prefix: Optional[str]) -> str:
    weights = read_weights(path, prefix)
    if isinstance(module, PyramidBackbone):
        return fit(module, weights)[1]
    if isinstance(module, ReleasedNames):
        return module.fit(weights)[1]
    wanted = module.state_dict()
    if not any(n in wanted and t.shape == wanted[n].shape for n, t in weights.tensors.items()):
        raise CheckpointError(
            f'{weights.source} does not fit: none of its {len(weights.tensors)} tensors has the '
            f'name and the shape of one of {type(module).__name__}; give other weights, or set '
            'init_cfg.prefix'
        )
    return summary(weights.source, weights.tensors, wanted)
