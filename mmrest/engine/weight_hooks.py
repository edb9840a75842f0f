"""Strict loading of weights: missing tensors stop the run, or are logged by name."""

import copy
import warnings
from typing import Any, Dict, Mapping, NamedTuple, Tuple

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel
from mmengine.runner import Runner
from torch import Tensor, nn

from ..checkpoint import CheckpointError, Weights, match, summary, weights_of
from ..errors import some
from ..models.pyramid import PyramidBackbone
from .compat import load_from_guarded, loaded_from
from .display import say
from .distributed import unwrapped


class Fitted(NamedTuple):
    """Tensors of a file to load into a model."""

    tensors: Dict[str, Tensor]  # under the names of the model
    report: str  # one line for the log
    complete: bool  # True if they cover the model


class _WeightsHook(Hook):
    """Hook that maps a checkpoint to the names of the model, or raises CheckpointError.

    Subclasses define ``fitted``. mmengine would load whatever matches and continue.
    """

    priority = 'VERY_HIGH'  # before EMAHook, which also reads the state dict

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        fitted = self.fitted(unwrapped(runner), loaded_from(runner), checkpoint)
        log = say if fitted.complete else runner.logger.warning
        log(fitted.report)
        checkpoint['state_dict'] = fitted.tensors


class StrictWeightsHook(_WeightsHook):
    """Hook that stops a test or resumed run whose checkpoint does not cover the model.

    If `resuming`, it requires a training checkpoint, with its epoch and iteration.
    """

    def __init__(self, resuming: bool = False) -> None:
        self.resuming = resuming

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        super().after_load_checkpoint(runner, checkpoint)
        if any(isinstance(module, BaseTTAModel) for module in runner.model.modules()):
            _fit_raw_weights(runner, checkpoint)
        trained = dataset_meta(checkpoint).get('classes')
        if not trained or self.resuming:
            return
        classes = getattr(runner.test_loop.dataloader.dataset, 'metainfo', {}).get('classes')
        if all(names and isinstance(names, (list, tuple)) for names in (trained, classes)):
            pairs = enumerate(zip(trained, classes))
            differ = [f'class {n} is {a!r}, not {b!r}' for n, (a, b) in pairs if a != b]
            if len(trained) != len(classes):
                differ.insert(0, f'it was trained on {len(trained)} classes, not {len(classes)}')
            if differ:
                runner.logger.warning(
                    f'{loaded_from(runner)} has other classes than test_dataloader.dataset: '
                    f'{some(differ, 3)}; metrics compare labels by their index'
                )

    def fitted(self, model: nn.Module, source: str, checkpoint: dict) -> Fitted:
        """Return the tensors to load into `model`, which may be on the meta device."""
        content = checkpoint
        if self.resuming:
            if 'state_dict' not in checkpoint or 'epoch' not in (checkpoint.get('meta') or ()):
                raise CheckpointError(
                    f'{source} contains only weights, so training cannot be resumed: drop '
                    '--resume and initialise from them with --cfg-options load_from=PATH'
                )
            content = checkpoint['state_dict']  # the averaged weights, if there is an EMAHook
        weights = _named_as(model, weights_of(source, content))
        wanted = model.state_dict()
        try:
            has_backbone = any(name.startswith('backbone.') for name in weights.tensors)
            if has_backbone and isinstance(getattr(model, 'backbone', None), PyramidBackbone):
                # First, because its error names the network of the file. The tensors of a deeper
                # backbone would match the model.
                model.backbone.fit(weights.under('backbone'))
            source = f'{weights.source} for {type(model).__name__}'
            tensors, report = match(source, weights.tensors, wanted)
        except CheckpointError as error:
            remedy = 'pass the config that it was trained with'
            if any(f'backbone.{name}' in wanted for name in weights.tensors):
                remedy = 'it contains only a backbone; initialise from it with --pretrained PATH'
            raise CheckpointError(f'{error}; {remedy}') from error
        return Fitted(tensors, report, True)


def _fit_raw_weights(runner: Runner, checkpoint: dict) -> None:
    """Give the raw weights of a run with EMA the names of a model with test-time augmentation.

    mmpretrain's EMAHook loads them by name, and evaluates random weights if it finds none.
    """
    raw = checkpoint.pop('ema_state_dict', {})
    if any(getattr(hook, 'evaluate_on_origin', False) for hook in runner.hooks):
        names = [name for name in raw if name.startswith('module.')]
        checkpoint['ema_state_dict'] = {f'module.{name}': raw[name] for name in names}
        tensors = checkpoint['state_dict'].items()
        checkpoint['state_dict'] = {f'module.{name}': tensor for name, tensor in tensors}


def dataset_meta(checkpoint: dict) -> Dict[str, Any]:
    """Return the meta information of a checkpoint's dataset: classes and palette, if stored."""
    meta = checkpoint.get('meta')
    meta = meta if isinstance(meta, dict) else {}
    noted = meta.get('dataset_meta') or {n: meta[n] for n in ('CLASSES', 'PALETTE') if n in meta}
    return {name.lower(): value for name, value in noted.items()}  # upper case before mmdet 3


class InitWeightsHook(_WeightsHook):
    """Hook that initialises from weights that cover the backbone; other tensors may be missing.

    This allows fine-tuning on a dataset with other classes. Tensors that are not in the file are
    logged by name.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        super().after_load_checkpoint(runner, checkpoint)
        # mmpretrain's EMAHook would load all of them, also those that do not fit.
        checkpoint.pop('ema_state_dict', None)

    def fitted(self, model: nn.Module, source: str, checkpoint: dict) -> Fitted:
        """See :meth:`StrictWeightsHook.fitted`."""
        weights = _named_as(model, weights_of(source, checkpoint))
        wanted = model.state_dict()
        tensors = weights.tensors
        backbone = getattr(model, 'backbone', None)
        if backbone is not None:
            backbone_tensors, _ = fitted_to(backbone, weights)
            tensors = {n: t for n, t in tensors.items() if not n.startswith('backbone.')}
            tensors.update((f'backbone.{name}', t) for name, t in backbone_tensors.items())
        fitting = {n: t for n, t in tensors.items() if n in wanted and t.shape == wanted[n].shape}
        report = summary(weights.source, tensors, wanted)
        if not fitting:
            if not _renames(model, tensors):
                raise CheckpointError(f'{report}; use other weights')
            # mmengine logs what is missing.
            report = f'{type(model).__name__} renames the tensors of {weights.source}'
            return Fitted(dict(tensors), report, False)
        return Fitted(fitting, report, len(fitting) == len(wanted))


def _renames(model: nn.Module, tensors: Mapping[str, Tensor]) -> bool:
    """Return True if a model finds tensors under other names, as a teacher and a student do."""
    copied = copy.deepcopy(model).to('meta')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # meta tensors have no values to load into
        try:
            missing = copied.load_state_dict(dict(tensors), strict=False).missing_keys
        except RuntimeError:  # it found some, of another shape
            return True
    loaded = model.state_dict().keys() - set(missing)
    return not all(name.endswith('num_batches_tracked') for name in loaded)  # which norms fill in


def _named_as(model: nn.Module, weights: Weights) -> Weights:
    """Return weights under the names of a model that also knows official names."""
    return model.renamed(weights) if hasattr(model, 'renamed') else weights


def fitted_to(backbone: nn.Module, weights: Weights) -> Tuple[Dict[str, Tensor], str]:
    """Return the tensors of a file for a backbone of any library, and a line for the log.

    Raises:
        CheckpointError: some are missing or have another shape.
    """
    if isinstance(backbone, PyramidBackbone):
        return backbone.fit(weights)
    own = weights.of(backbone.state_dict())
    return match(f'{own.source} for {type(backbone).__name__}', own.tensors, backbone.state_dict())


def load_full_weights(model: nn.Module, path: str) -> Tuple[dict, str]:
    """Load weights that cover a model, and return the content of the file and a line for the log.

    Raises:
        CheckpointError: the file cannot be read or does not cover the model.
    """
    content = load_from_guarded(path, 'cpu')
    tensors, report, _ = StrictWeightsHook().fitted(model, path, content)
    model.load_state_dict(tensors, strict=False)
    return content, report
