"""Weights of a run: read under torch's weights-only guard, and never loaded by halves."""

import logging
import os
import os.path as osp
from abc import ABC, abstractmethod
from typing import Any, Dict, NamedTuple, Tuple
from urllib.parse import urlparse

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader, Runner, checkpoint
from torch import Tensor, nn

from ..checkpoint import CheckpointError, Weights, match, read_checkpoint, summary, weights_of
from ..models.pretrained import fit
from ..models.pyramid import PyramidBackbone
from ..models.released import ReleasedNames
from .sharding import whole_model


def guard_checkpoints() -> None:
    """Have mmengine read checkpoints through :func:`mmrest.checkpoint.read_checkpoint`.

    mmengine's own readers cannot read its checkpoints back on torch 2.6 and later, and build
    whatever a file asks for where torch does not stop them: on earlier releases, and in files that
    come by http on any.
    """
    zoos = ('torchvision', 'modelzoo', 'open-mmlab', 'openmmlab', 'mmcls')
    schemes = [s for s in CheckpointLoader._schemes if not s.startswith(zoos)]
    CheckpointLoader.register_scheme(schemes, load_from_guarded, force=True)
    # The names of model zoos are resolved into addresses for this one.
    checkpoint.load_from_http = load_from_guarded


def load_from_guarded(filename: str, map_location: Any = None, model_dir: Any = None) -> Any:
    """Loader of mmengine; it cuts ``load_from_`` off the name for its log.

    Args:
        filename: local path, or address; what comes by http is kept in torch's hub folder.
        map_location: as for ``torch.load``.
        model_dir: folder instead of that of torch's hub.

    Raises:
        CheckpointError: see :func:`mmrest.checkpoint.read_checkpoint`.
    """
    if filename.startswith(('http://', 'https://')):
        folder = model_dir or osp.join(torch.hub.get_dir(), 'checkpoints')
        filename = _downloaded(filename, folder)
    content = read_checkpoint(filename, map_location)
    if not isinstance(content, dict):
        raise CheckpointError(
            f'{filename} holds a {type(content).__name__}, not a checkpoint or a state dict'
        )
    if isinstance(content.get('meta'), dict):
        # On resuming, mmengine runs this text of older files as a Python program, to compare the
        # number of GPUs.
        content['meta'].pop('config', None)
    return content


def _downloaded(url: str, folder: str) -> str:
    path = osp.join(folder, osp.basename(urlparse(url).path))
    if not osp.isfile(path):
        os.makedirs(folder, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, path)
        except OSError as error:
            raise CheckpointError(f'checkpoint {url} cannot be downloaded: {error}') from error
    return path


class Fitted(NamedTuple):
    """The tensors of a file that go into a model.

    Attributes:
        tensors: by the names that the model has.
        report: a line about them.
        whole: whether nothing of the model is left out.
    """

    tensors: Dict[str, Tensor]
    report: str
    whole: bool


class WeightsHook(Hook, ABC):
    """Puts what a file holds under the names that the model has, or stops the run.

    mmengine would load whatever matches and go on.
    """

    priority = 'VERY_HIGH'  # before EMAHook, which reads the state dict too

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Replace the state dict of a checkpoint that was read.

        Raises:
            CheckpointError: it does not fit.
        """
        fitted = self.fitted(whole_model(runner), str(runner._load_from), checkpoint)
        print_log(fitted.report, 'current', logging.INFO if fitted.whole else logging.WARNING)
        checkpoint['state_dict'] = fitted.tensors

    @abstractmethod
    def fitted(self, model: nn.Module, source: str, checkpoint: dict) -> Fitted:
        """The tensors that go into `model`, on whatever device it is."""


class WholeWeightsHook(WeightsHook):
    """Stops a run whose checkpoint does not cover the model: a test, or one that goes on.

    Args:
        resuming: the checkpoint must also say how far its run had come.
    """

    def __init__(self, resuming: bool = False) -> None:
        self.resuming = resuming

    def fitted(self, model: nn.Module, source: str, checkpoint: dict) -> Fitted:
        if not self.resuming:
            weights = weights_of(source, checkpoint)
        elif 'state_dict' in checkpoint and 'epoch' in (checkpoint.get('meta') or ()):
            weights = weights_of(source, checkpoint['state_dict'])  # not an average of it
        else:
            raise CheckpointError(
                f'{source} is no checkpoint of a run, it holds weights alone: leave --resume out '
                'and begin from them with --cfg-options load_from=PATH'
            )
        weights = _named_as(model, weights)
        wanted = model.state_dict()
        try:
            tensors, report = match(
                f'{weights.source} for {type(model).__name__}', weights.tensors, wanted
            )
            if isinstance(getattr(model, 'backbone', None), PyramidBackbone):
                fit(model.backbone, weights.under('backbone'))  # of a deeper one it would be all
        except CheckpointError as error:
            backbone = {name[9:] for name in wanted if name.startswith('backbone.')}
            if backbone & weights.tensors.keys():
                remedy = 'it holds a backbone alone, to begin training from: --pretrained PATH'
            else:
                remedy = 'give the config that it was trained with'
            raise CheckpointError(f'{error}; {remedy}') from error
        return Fitted(tensors, report, True)


class BeginningWeightsHook(WeightsHook):
    """Begins a training from weights that cover its backbone; of the rest, from what fits.

    That is how a detector of one data set is trained on the classes of another. What does not
    come from the file is logged by name.
    """

    def fitted(self, model: nn.Module, source: str, checkpoint: dict) -> Fitted:
        weights = _named_as(model, weights_of(source, checkpoint))
        wanted = model.state_dict()
        tensors = dict(weights.tensors)
        backbone = getattr(model, 'backbone', None)
        if backbone is not None:
            of_backbone, _ = fitted_to(backbone, weights)
            tensors = {n: t for n, t in tensors.items() if not n.startswith('backbone.')}
            tensors.update((f'backbone.{name}', t) for name, t in of_backbone.items())
        fitting = {n: t for n, t in tensors.items() if n in wanted and t.shape == wanted[n].shape}
        report = summary(weights.source, tensors, wanted)
        return Fitted(fitting, report, len(fitting) == len(wanted))


def _named_as(model: nn.Module, weights: Weights) -> Weights:
    """Weights under the names of a model that knows those of released files too."""
    return model.renamed(weights) if isinstance(model, ReleasedNames) else weights


def fitted_to(backbone: nn.Module, weights: Weights) -> Tuple[Dict[str, Tensor], str]:
    """The tensors of a file that a backbone needs, ours or another, and a line about them.

    Raises:
        CheckpointError: some are missing or have another shape.
    """
    if isinstance(backbone, PyramidBackbone):
        return fit(backbone, weights)
    own = weights.of(backbone.state_dict())
    return match(f'{own.source} for {type(backbone).__name__}', own.tensors, backbone.state_dict())
