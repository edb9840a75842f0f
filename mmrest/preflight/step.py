"""One step of training and one prediction, on small crops of real samples."""

import copy
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.evaluator import Evaluator
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import MODELS
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.data import DataLoader

from ..engine.config import first_line
from ..engine.errors import UsageError
from .data import Part, count_instances
from .evaluation import fresh
from .report import Report, some
from .weights import from_files

SIDE = 320
"""Pixels of a crop around an object, which keeps its size: a step takes seconds on a laptop."""

SIDE_OF_MAP = 128
"""Pixels of a crop where only label maps are learnt."""


def check_optimizer(cfg: Config, model: nn.Module, report: Report) -> None:
    """Make sure that the optimizer can be built, and that it treats norms as asked for.

    Args:
        cfg: config of the run.
        model: its network, on any device.
        report: warnings are added to it.

    Raises:
        UsageError: it cannot be built.
    """
    wrapper = _optimizer(cfg, model)
    paramwise = (cfg.get('optim_wrapper') or {}).get('paramwise_cfg') or {}
    keys = paramwise.get('custom_keys') or {}
    if not isinstance(wrapper, OptimWrapper) or not keys or paramwise.get('norm_decay_mult') != 0:
        return
    norms = {
        id(parameter): f'{name}.{kind}'
        for name, module in model.named_modules()
        if isinstance(module, (_NormBase, nn.GroupNorm, nn.LayerNorm))
        for kind, parameter in module.named_parameters(recurse=False)
    }
    decayed = [
        norms[id(parameter)]
        for group in wrapper.optimizer.param_groups
        for parameter in group['params']
        if group.get('weight_decay') and id(parameter) in norms
    ]
    if decayed:
        undoing = [k for k, v in keys.items() if 'decay_mult' not in v and k in decayed[0]]
        report.warn(
            f'weight decay acts on {len(decayed)} parameters of norms ({some(decayed, 1)}): '
            f'paramwise_cfg.custom_keys ({some(undoing or list(keys))}) undoes '
            'norm_decay_mult=0 for them; list the norms in custom_keys too, with decay_mult=0'
        )


def _optimizer(cfg: Config, model: nn.Module) -> Any:
    try:
        return build_optim_wrapper(model, copy.deepcopy(cfg.optim_wrapper))
    except Exception as error:  # whatever an optimizer raises
        raise UsageError(f'optim_wrapper cannot be built: {first_line(error)}') from error


def check_step(
    cfg: Config,
    loaders: Dict[str, DataLoader],
    parts: Sequence[Part],
    evaluator: Optional[Evaluator],
    report: Report,
) -> None:
    """Train for one step on the device of the run, and hand one prediction to the metrics.

    Weights of files are not loaded; nothing is kept.

    Args:
        cfg: config of the run.
        loaders: of its phases.
        parts: its data sets, with samples.
        evaluator: of the evaluation; left as it is.
        report: the losses are added to it.

    Raises:
        UsageError: the step or the prediction fails, or a loss is not finite.
    """
    network = copy.deepcopy(cfg.model)
    if cfg.get('data_preprocessor'):
        network.setdefault('data_preprocessor', cfg.data_preprocessor)  # as the Runner does
    model = MODELS.build(network)
    for _, module, _ in list(from_files(model)):
        module.init_cfg = None
    model.init_weights()
    model.to(get_device())
    if getattr(model.data_preprocessor, 'size', None) is not None:  # it would pad the crop
        model.data_preprocessor.size = (SIDE_OF_MAP, SIDE_OF_MAP)
    training = [s.packed for p in parts if p.phase == 'train' for s in p.samples]
    chosen = sorted(filter(None, training), key=lambda packed: not count_instances(packed))
    size = min(2, loaders['train'].batch_sampler.batch_size)
    if len(chosen) >= size and _is_packed(chosen[0]):
        _train(
            cfg, model, loaders['train'].collate_fn([cropped(p) for p in chosen[:size]]), report
        )
    evaluated = [s.packed for p in parts if p.phase == 'val' for s in p.samples if s.packed]
    if evaluated and evaluator is not None and _is_packed(evaluated[0]):
        batch = loaders['val'].collate_fn([cropped(evaluated[0])])
        part = next(p for p in parts if p.phase == 'val')
        _predict(model, batch, evaluator, part)


def _is_packed(sample: Any) -> bool:
    return isinstance(sample, dict) and torch.is_tensor(sample.get('inputs'))


def _train(cfg: Config, model: nn.Module, batch: Any, report: Report) -> None:
    optimizer = _optimizer(cfg, model)
    if not isinstance(optimizer, OptimWrapper):
        return
    model.train()
    try:
        with optimizer.optim_context(model):
            data = model.data_preprocessor(batch, True)
            total, losses = model.parse_losses(model(**data, mode='loss'))
            optimizer.backward(total)
        without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        optimizer.step()
    except Exception as error:  # whatever a network raises
        raise UsageError(
            f'the first step of training fails: {first_line(error)}; see whether the heads fit '
            'the data, and the network the images'
        ) from error
    values = {name: float(value.detach()) for name, value in losses.items() if 'loss' in name}
    infinite = [name for name, value in values.items() if not np.isfinite(value)]
    if infinite:
        raise UsageError(
            f'the first step of training gives a {infinite[0]} of {values[infinite[0]]}'
        )
    report.add('first step', ', '.join(f'{name} {value:.3g}' for name, value in values.items()))
    of_boxes = [value for name, value in values.items() if 'bbox' in name]
    if of_boxes and not any(of_boxes):
        report.warn(
            'no loss of boxes in the first step: no box of the sample has an anchor or point'
        )
    if without:
        _warn_of_unused(cfg, without, report)


def _warn_of_unused(cfg: Config, names: List[str], report: Report) -> None:
    remedy = 'set find_unused_parameters=True'
    if all(name.startswith('backbone.') for name in names) and (cfg.model.get('neck') or {}).get(
        'start_level'
    ):
        level = cfg.model.neck.start_level
        remedy = (
            f'the neck reads no map before the one of start_level={level}: set '
            f'model.backbone.out_indices={tuple(range(level, 4))}, and start_level=0 with the '
            'in_channels of these'
        )
    report.warn(
        f'{len(names)} parameters get no gradient ({some(names, 2)}), so that training with '
        f'several processes ends with "Expected to have finished reduction"; {remedy}'
    )


def _predict(model: nn.Module, batch: Any, evaluator: Evaluator, part: Part) -> None:
    model.eval()
    try:
        with torch.no_grad():
            outputs = [output.to_dict() for output in model.test_step(batch)]
        for metric in evaluator.metrics:
            fresh(metric, part).process(batch, outputs)
    except Exception as error:  # whatever a network or a metric raises
        raise UsageError(
            f'the first evaluation fails: {first_line(error)}; see whether heads, test_cfg and '
            'val_evaluator fit one another'
        ) from error


def cropped(packed: Dict[str, Any]) -> Dict[str, Any]:
    """A packed sample around one of its objects.

    Args:
        packed: image of (C, H, W) and its annotations.
    """
    image, truth = packed['inputs'], packed['data_samples'].clone()
    height, width = image.shape[-2:]
    side = SIDE if 'gt_instances' in truth else SIDE_OF_MAP
    if max(height, width) <= side or not ({'gt_instances', 'gt_sem_seg'} & set(truth.keys())):
        return packed
    y, x = height // 2, width // 2
    boxes = _tensor(truth.gt_instances.bboxes) if 'gt_instances' in truth else torch.empty(0, 4)
    if len(boxes):
        x, y = (int(c) for c in (boxes[0, :2] + boxes[0, 2:]) / 2)
    top, left = (max(0, min(c - side // 2, n - side)) for c, n in ((y, height), (x, width)))
    image = image[..., top : top + side, left : left + side]
    height, width = image.shape[-2:]
    if 'gt_sem_seg' in truth and truth.gt_sem_seg.data.shape[-2:] != packed['inputs'].shape[-2:]:
        # Of an evaluation: the prediction is resized to it.
        truth.set_metainfo(dict(img_shape=(height, width)))
        return dict(packed, inputs=image, data_samples=truth)
    if 'gt_sem_seg' in truth:
        labels = truth.gt_sem_seg.data[..., top : top + side, left : left + side]
        truth.gt_sem_seg = type(truth.gt_sem_seg)(data=labels)
    for key in {'gt_instances', 'ignored_instances'} & set(truth.keys()):
        truth.set_data({key: _cropped(getattr(truth, key), left, top, width, height)})
    truth.set_metainfo(
        dict(img_shape=(height, width), ori_shape=(height, width), scale_factor=(1.0, 1.0))
    )
    return dict(packed, inputs=image, data_samples=truth)


def _tensor(boxes: Any) -> torch.Tensor:
    return getattr(boxes, 'tensor', boxes)


def _cropped(instances: Any, left: int, top: int, width: int, height: int) -> Any:
    boxes = _tensor(instances.bboxes) - torch.tensor([left, top, left, top])
    boxes = torch.stack([b.clamp(0, n) for b, n in zip(boxes.T, (width, height) * 2)], 1)
    keep = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(1)
    kept = instances[keep]
    if torch.is_tensor(kept.bboxes):
        kept.bboxes = boxes[keep]
    else:
        kept.bboxes = type(kept.bboxes)(boxes[keep])
    if 'masks' in kept:
        kept.masks = kept.masks.crop(np.array([left, top, left + width, top + height]))
    return kept
