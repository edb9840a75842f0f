"""Strict loading of weights: what a checkpoint lacks stops the run, or is logged by name."""

import logging
from typing import Dict, NamedTuple, Tuple

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch import Tensor, nn

from ..checkpoint import CheckpointError, Weights, match, summary, weights_of
from ..models.pyramid import PyramidBackbone
from .compat import loaded_from
from .display import say
from .distributed import unwrapped


class Fitted(NamedTuple):
    """The tensors of a file that go into a model.

    Attributes:
        tensors: under the names that the model uses.
        report: one line for the log.
        complete: whether they cover the model.
    """

    tensors: Dict[str, Tensor]
    report: str
    complete: bool


class _WeightsHook(Hook):
    """Maps a checkpoint to the names of the model, or stops the run.

    mmengine would load whatever matches and continue.
    """

    priority = 'VERY_HIGH'  # before EMAHook, which reads the state dict too

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Replace the state dict of a checkpoint.

        Raises:
            CheckpointError: it does not fit.
        """
        fitted = self.fitted(unwrapped(runner), loaded_from(runner), checkpoint)
        if fitted.complete:
            say(fitted.report)
        else:
            print_log(fitted.report, 'current', logging.WARNING)
        checkpoint['state_dict'] = fitted.tensors


class StrictWeightsHook(_WeightsHook):
    """Stops a test or a resumed run whose checkpoint does not cover the model.

    Args:
        resuming: require a training checkpoint, with its epoch and iteration.
    """

    def __init__(self, resuming: bool = False) -> None:
        self.resuming = resuming

    def fitted(self, model: nn.Module, source: str, checkpoint: dict) -> Fitted:
        """Return the tensors that go into `model`, which may be on the meta device."""
        if not self.resuming:
            weights = weights_of(source, checkpoint)
        elif 'state_dict' in checkpoint and 'epoch' in (checkpoint.get('meta') or ()):
            weights = weights_of(source, checkpoint['state_dict'])  # not the EMA weights
        else:
            raise CheckpointError(
                f'{source} contains only weights, so training cannot be resumed: drop --resume '
                'and initialise from them with --cfg-options load_from=PATH'
            )
        weights = _named_as(model, weights)
        wanted = model.state_dict()
        try:
            tensors, report = match(
                f'{weights.source} for {type(model).__name__}', weights.tensors, wanted
            )
            if isinstance(getattr(model, 'backbone', None), PyramidBackbone):
                # Those of a deeper one match, too.
                model.backbone.fit(weights.under('backbone'))
        except CheckpointError as error:
            backbone = {name[9:] for name in wanted if name.startswith('backbone.')}
            if backbone & weights.tensors.keys():
                remedy = 'it contains only a backbone; initialise from it with --pretrained PATH'
            else:
                remedy = 'pass the config that it was trained with'
            raise CheckpointError(f'{error}; {remedy}') from error
        return Fitted(tensors, report, True)


class InitWeightsHook(_WeightsHook):
    """Initialises a training from weights that cover its backbone, and what else fits.

    That is how a detector of one dataset is fine-tuned on the classes of another. Tensors that
    are not in the file are logged by name.
    """

    def fitted(self, model: nn.Module, source: str, checkpoint: dict) -> Fitted:
        """Return the tensors that go into `model`, which may be on the meta device."""
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
    """Return weights under the names of a model that knows official names, too."""
    return model.renamed(weights) if hasattr(model, 'renamed') else weights


def fitted_to(backbone: nn.Module, weights: Weights) -> Tuple[Dict[str, Tensor], str]:
    """Return the tensors of a file that a backbone needs, of any library, and a line for the log.

    Raises:
        CheckpointError: some are missing or have another shape.
    """
    if isinstance(backbone, PyramidBackbone):
        return backbone.fit(weights)
    own = weights.of(backbone.state_dict())
    return match(f'{own.source} for {type(backbone).__name__}', own.tensors, backbone.state_dict())
