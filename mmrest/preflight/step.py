"""One training step and one prediction, on small crops of real samples."""

import copy
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
from mmcv.cnn import is_norm
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.evaluator import Evaluator
from mmengine.hooks import EMAHook
from mmengine.optim import OptimWrapperDict, build_optim_wrapper
from mmengine.registry import HOOKS, MODELS, PARAM_SCHEDULERS, TRANSFORMS
from torch import nn
from torch.utils.data import DataLoader

from ..engine.config import type_name
from ..errors import UsageError, some
from .data import Part, Sample, count_instances
from .evaluation import score
from .findings import Report, explained
from .names import named_parts, near
from .resources import from_files

SIDE = 320
"""Side of the crops for detectors, in pixels; a step takes seconds on a laptop."""

SIDE_OF_MAP = 128
"""Side of the crops for segmentors, in pixels."""

CROPS = 10
"""Maximum number of random crops to find one with an object."""


def check_optimizer(cfg: Config, model: nn.Module, report: Report) -> Any:
    """Return the optimizer wrapper of a run, and warn about custom_keys with unintended effects.

    Raises:
        UsageError: it cannot be built.
    """
    wrapper = _optimizer(cfg, model)
    paramwise = cfg.optim_wrapper.get('paramwise_cfg') or {}
    keys = paramwise.get('custom_keys') or {}
    names = [name for name, _ in model.named_parameters()]
    words = {word for name in names for word in name.split('.')}
    unused = [key for key in keys if not any(key in name for name in names)]
    similar = [(key, near(key.split('.')[-1], words, 0.85)) for key in unused]
    hints = [f'{key} ({found[0]}?)' for key, found in similar if found and found[0] not in key]
    if hints:  # keys for other networks are common
        report.warnings.append(
            f'paramwise_cfg.custom_keys occur in no parameter name: {some(hints)}'
        )
    if isinstance(wrapper, OptimWrapperDict) or not keys or paramwise.get('norm_decay_mult') != 0:
        return wrapper  # several optimizers, or nothing to undo
    groups = [group for group in wrapper.optimizer.param_groups if group.get('weight_decay')]
    decaying = {id(parameter) for group in groups for parameter in group['params']}
    decayed = [
        f'{name}.{kind}'
        for name, module in model.named_modules()
        for kind, parameter in module.named_parameters(recurse=False)
        if is_norm(module) and id(parameter) in decaying
    ]
    if decayed:
        undoing = [k for k, v in keys.items() if 'decay_mult' not in v and k in decayed[0]]
        report.warnings.append(
            f'weight decay acts on {len(decayed)} parameters of norms ({some(decayed, 1)}): '
            f'paramwise_cfg.custom_keys ({some(undoing or list(keys))}) undoes '
            'norm_decay_mult=0 for them; list the norms in custom_keys too, with decay_mult=0'
        )
    return wrapper


def _optimizer(cfg: Config, model: nn.Module) -> Any:
    with explained('optim_wrapper cannot be built'):
        return build_optim_wrapper(model, cfg.optim_wrapper)


def check_hooks_and_schedulers(cfg: Config, wrapper: Any, batches: int) -> None:
    """Check that the hooks and parameter schedulers of a run can be built.

    Raises:
        UsageError: one cannot be built.
    """
    for where, part, root in named_parts(cfg, ('train',)):
        name = str(type_name(part))
        with explained(f'{where} ({name}) cannot be built', 'correct its arguments'):
            if root is PARAM_SCHEDULERS and not isinstance(wrapper, OptimWrapperDict):
                length = 'max_epochs' if part.get('by_epoch', True) else 'max_iters'
                part = {'end': cfg.train_cfg.get(length) or 10**9, **part}  # as the Runner
                root.build(part, default_args=dict(optimizer=wrapper, epoch_length=batches))
            elif root is HOOKS and 'VisualizationHook' not in name:  # needs a runner's visualizer
                hook = root.build({k: v for k, v in part.items() if k != 'priority'})
                if isinstance(hook, EMAHook):
                    MODELS.build(hook.ema_cfg, default_args=dict(model=nn.Linear(1, 1)))


def check_step(
    cfg: Config,
    loaders: Dict[str, DataLoader],
    parts: Sequence[Part],
    evaluator: Optional[Evaluator],
    report: Report,
) -> None:
    """Train for one step on the device of the run, and evaluate one prediction.

    Weights are not loaded from files; nothing is kept.

    Raises:
        UsageError: the step or the prediction fails, or a loss is not finite.
    """
    model = _network(cfg)
    usable = [(part, s) for part in parts for s in part.samples if _is_packed(s.packed)]
    inputs = _inputs(loaders['train'], [item for item in usable if item[0].phase == 'train'])
    if inputs and all(map(_is_packed, inputs)):
        side = max(max(each['inputs'].shape[-2:]) for each in inputs)
        for module in model.data_preprocessor.modules():
            if getattr(module, 'size', None) is not None:  # it would pad the crops
                module.size = (side, side)
        _train(cfg, model, loaders['train'].collate_fn(inputs), report)
    else:
        report.warnings.append(
            'no training step was tried: samples are not single images, or too few for a batch'
        )
    of_val = [item for item in usable if item[0].phase == 'val']
    for part, sample in of_val[:1] if evaluator is not None else ():
        batch = loaders['val'].collate_fn([_corner(sample)])
        model.eval()
        with explained('the first evaluation fails', 'check heads, test_cfg and val_evaluator'):
            with torch.no_grad():
                outputs = [output.to_dict() for output in model.test_step(batch)]
            for metric in evaluator.metrics:
                score(metric, part, outputs)


def _network(cfg: Config) -> nn.Module:
    """Return the network of a run, initialised, on its device."""
    network = copy.deepcopy(cfg.model)
    if cfg.get('data_preprocessor'):
        network.setdefault('data_preprocessor', cfg.data_preprocessor)  # like the Runner
    model = MODELS.build(network)
    for _, module, _ in list(from_files(model)):
        module.init_cfg = None
    model.init_weights()
    for module in model.modules():
        test_cfg = getattr(module, 'test_cfg', None)
        if isinstance(test_cfg, dict) and 'score_thr' in test_cfg:
            test_cfg['score_thr'] = 0  # otherwise, an untrained detector has no boxes for NMS
    return model.to(get_device())


def _inputs(loader: DataLoader, usable: List[Tuple[Part, Sample]]) -> List[Any]:
    """Return a batch of crops, with objects if possible, or of what a mixing dataset packs."""
    size = min(2, loader.batch_sampler.batch_size)
    usable = sorted(usable, key=lambda item: not count_instances(item[1].packed))[:size]
    if len(usable) == size and all(part.is_usual for part, _ in usable):
        return [_crop(part, sample) for part, sample in usable]
    with explained('train_dataloader.dataset fails on its first samples'):
        return [loader.dataset[index] for index in range(size) if len(loader.dataset) >= size]


def _is_packed(packed: Any) -> bool:
    return isinstance(packed, dict) and torch.is_tensor(packed.get('inputs'))


def _crop(part: Part, sample: Any) -> Any:
    truth = sample.packed['data_samples']
    if 'gt_instances' in truth:
        crop = dict(type='mmdet.RandomCrop', crop_size=(SIDE, SIDE), allow_negative_crop=True)
    elif 'gt_sem_seg' in truth:
        crop = dict(type='mmseg.RandomCrop', crop_size=(SIDE_OF_MAP, SIDE_OF_MAP))
    else:
        return sample.packed
    crop = TRANSFORMS.build(crop)
    for _ in range(CROPS):
        packed = part.prepare(sample.info, crop)
        if packed is not None and count_instances(packed) != 0:
            return packed
    return sample.packed


def _corner(sample: Sample) -> Any:
    """Return a packed sample with a corner of its image; classifiers take any size."""
    packed, truth = sample.packed, sample.packed['data_samples'].clone()
    if not {'instances', 'seg_map_path'} & sample.info.keys():
        return packed
    side = SIDE if 'instances' in sample.info else SIDE_OF_MAP
    image = packed['inputs'][..., :side, :side]
    truth.set_metainfo(dict(img_shape=tuple(image.shape[-2:])))
    return dict(packed, inputs=image, data_samples=truth)


def _train(cfg: Config, model: nn.Module, batch: Any, report: Report) -> None:
    optimizer = _optimizer(cfg, model)
    if isinstance(optimizer, OptimWrapperDict):  # its train_step is the model's own
        return
    model.train()
    with explained('the first step of training fails', 'check that network and data match'):
        with optimizer.optim_context(model):
            data = model.data_preprocessor(batch, True)
            total, losses = model.parse_losses(model(**data, mode='loss'))
            optimizer.backward(total)
        without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        optimizer.step()
    groups = optimizer.optimizer.param_groups
    trained = [p.grad for group in groups if group['lr'] for p in group['params']]
    if not any(grad is not None and grad.any() for grad in trained):
        raise UsageError(
            'the first step of training changes nothing: all gradients or learning rates are 0; '
            'check lr, lr_mult and clip_grad of optim_wrapper, and loss_weight of the heads'
        )
    values = {name: float(value.detach()) for name, value in losses.items() if 'loss' in name}
    for name, value in values.items():
        if not np.isfinite(value):
            raise UsageError(
                f'the first step of training gives {name} {value}; check the boxes of the '
                'training set (units, order of corners) and the weights of the losses'
            )
    report.add('first step', ', '.join(f'{name} {value:.3g}' for name, value in values.items()))
    of_boxes = [value for name, value in values.items() if 'bbox' in name]
    if of_boxes and not any(of_boxes):
        report.warnings.append(
            'no box loss in the first step: no box of the sample has an anchor or point'
        )
    if without and not (cfg.get('model_wrapper_cfg') or cfg).get('find_unused_parameters'):
        remedy, neck = 'set find_unused_parameters=True', cfg.model.get('neck')
        level = neck.get('start_level') if isinstance(neck, dict) else None
        if level and all(name.startswith('backbone.') for name in without):
            remedy = (
                f'the neck starts at start_level={level}: set '
                f'model.backbone.out_indices={tuple(range(level, 4))}, and start_level=0 with the '
                'in_channels of these stages'
            )
        report.warnings.append(
            f'{len(without)} parameters get no gradient ({some(without, 2)}), so distributed '
            f'training fails with "Expected to have finished reduction"; {remedy}'
        )
