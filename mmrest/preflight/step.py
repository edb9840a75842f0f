"""One training step and one prediction, on small crops of real samples."""

import copy
from typing import Any, Dict, Optional, Sequence

import numpy as np
import torch
from mmcv.cnn import is_norm
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.evaluator import Evaluator
from mmengine.hooks import EMAHook
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import HOOKS, MODELS, PARAM_SCHEDULERS, TRANSFORMS
from torch import nn
from torch.utils.data import DataLoader

from ..engine.building import find_type
from ..engine.config import dicts, type_name
from ..errors import UsageError, some
from .data import Part, count_instances
from .evaluation import score
from .findings import Report, explained
from .names import near
from .resources import from_files

SIDE = 320
"""Side of the crops for detectors, in pixels; a step takes seconds on a laptop."""

SIDE_OF_MAP = 128
"""Side of the crops for segmentors, in pixels."""

CROPS = 10
"""Maximum number of random crops to find one with an object."""


def check_optimizer(cfg: Config, model: nn.Module, report: Report) -> Any:
    """Check that the optimizer can be built, and warn about custom_keys with unintended effects.

    Args:
        cfg: config of the run.
        model: its network, on any device.
        report: receives warnings.

    Returns:
        The wrapper of the optimizer.

    Raises:
        UsageError: it cannot be built.
    """
    wrapper = _optimizer(cfg, model)
    paramwise = (cfg.get('optim_wrapper') or {}).get('paramwise_cfg') or {}
    keys = paramwise.get('custom_keys') or {}
    names = [name for name, _ in model.named_parameters()]
    words = {word for name in names for word in name.split('.')}
    ends = {key: key.split('.')[-1] for key in keys if not any(key in name for name in names)}
    similar = {key: near(end, words, 0.85) for key, end in ends.items() if end not in words}
    hints = [f'{key} ({found[0]}?)' for key, found in similar.items() if found]
    if hints:  # keys of other networks are usual
        report.warnings.append(
            f'paramwise_cfg.custom_keys occur in no parameter name: {some(hints)}'
        )
    if not isinstance(wrapper, OptimWrapper) or not keys or paramwise.get('norm_decay_mult') != 0:
        return wrapper
    norms = {
        id(parameter): f'{name}.{kind}'
        for name, module in model.named_modules()
        if is_norm(module)
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
        report.warnings.append(
            f'weight decay acts on {len(decayed)} parameters of norms ({some(decayed, 1)}): '
            f'paramwise_cfg.custom_keys ({some(undoing or list(keys))}) undoes '
            'norm_decay_mult=0 for them; list the norms in custom_keys too, with decay_mult=0'
        )
    return wrapper


def check_schedulers(cfg: Config, wrapper: Any, batches: int) -> None:
    """Check that the parameter schedulers can be built.

    Args:
        cfg: config of the run.
        wrapper: result of :func:`check_optimizer`.
        batches: batches per epoch.

    Raises:
        UsageError: one cannot be built.
    """
    loop, given = cfg.get('train_cfg') or {}, dict(optimizer=wrapper, epoch_length=batches)
    for where, part in dicts(cfg.get('param_scheduler'), 'param_scheduler'):
        if 'type' in part and isinstance(wrapper, OptimWrapper):
            end = loop.get('max_epochs' if part.get('by_epoch', True) else 'max_iters')
            part = {**(dict(end=end) if end else {}), **part}
            with explained(
                f'{where} ({type_name(part)}) cannot be built', 'correct its arguments'
            ):
                PARAM_SCHEDULERS.build(part, default_args=given)


def check_hooks(cfg: Config) -> None:
    """Check that the hooks can be built.

    Raises:
        UsageError: one cannot be built.
    """
    for key in ('default_hooks', 'custom_hooks'):
        for where, part in dicts(cfg.get(key), key):
            kind = find_type(HOOKS, part.get('type'))
            # Visualization hooks need the visualizer of a runner.
            if where.count('.') != 1 or kind is None or 'VisualizationHook' in kind.__name__:
                continue
            with explained(f'{where} ({kind.__name__}) cannot be built', 'correct its arguments'):
                hook = HOOKS.build({k: v for k, v in part.items() if k != 'priority'})
                if isinstance(hook, EMAHook):
                    MODELS.build(hook.ema_cfg, default_args=dict(model=nn.Linear(1, 1)))


def _optimizer(cfg: Config, model: nn.Module) -> Any:
    with explained('optim_wrapper cannot be built'):
        return build_optim_wrapper(model, copy.deepcopy(cfg.optim_wrapper))


def check_step(
    cfg: Config,
    loaders: Dict[str, DataLoader],
    parts: Sequence[Part],
    evaluator: Optional[Evaluator],
    report: Report,
) -> None:
    """Train for one step on the device of the run, and evaluate one prediction.

    Weights are not loaded from files; nothing is kept.

    Args:
        cfg: config of the run.
        loaders: phase -> dataloader.
        parts: its datasets, with samples.
        evaluator: evaluator of the val phase.
        report: receives the losses.

    Raises:
        UsageError: the step or the prediction fails, or a loss is not finite.
    """
    network = copy.deepcopy(cfg.model)
    if cfg.get('data_preprocessor'):
        network.setdefault('data_preprocessor', cfg.data_preprocessor)  # like the Runner
    model = MODELS.build(network)
    for _, module, _ in list(from_files(model)):
        module.init_cfg = None
    model.init_weights()
    model.to(get_device())
    for module in model.modules():
        test_cfg = getattr(module, 'test_cfg', None)
        if isinstance(test_cfg, dict) and 'score_thr' in test_cfg:
            test_cfg['score_thr'] = 0  # else an untrained detector has no boxes for NMS
    usable = {
        phase: [
            (p, s) for p in parts if p.phase == phase for s in p.samples if _is_packed(s.packed)
        ]
        for phase in ('train', 'val')
    }
    chosen = sorted(usable['train'], key=lambda item: not count_instances(item[1].packed))
    size = min(2, loaders['train'].batch_sampler.batch_size)
    if len(chosen) >= size and all(part.is_usual for part, _ in chosen[:size]):
        inputs = [_crop(part, sample) for part, sample in chosen[:size]]
        preprocessor = model.data_preprocessor
        if getattr(preprocessor, 'size', None) is not None:  # it would pad the crop
            preprocessor.size = (SIDE_OF_MAP, SIDE_OF_MAP)
        for module in preprocessor.modules():
            if type(module).__name__ == 'BatchFixedSizePad':
                module.size = (SIDE, SIDE)
    else:  # the dataset, or a wrapper, mixes or packs the samples
        with explained('train_dataloader.dataset fails on its first samples'):
            dataset = loaders['train'].dataset
            inputs = [dataset[index] for index in range(size) if len(dataset) >= size]
    if inputs and all(_is_packed(each) for each in inputs):
        _train(cfg, model, loaders['train'].collate_fn(inputs), report)
    else:
        report.warnings.append(
            'no step of training was tried: samples are not single images, or too few for a batch'
        )
    for part, sample in usable['val'][:1] if evaluator is not None else ():
        packed, truth = sample.packed, sample.packed['data_samples'].clone()
        side = SIDE if 'instances' in sample.info else SIDE_OF_MAP
        if {'instances', 'seg_map_path'} & sample.info.keys():  # classifiers take any size
            inputs = packed['inputs'][..., :side, :side]
            truth.set_metainfo(dict(img_shape=tuple(inputs.shape[-2:])))
            packed = dict(packed, inputs=inputs, data_samples=truth)
        _predict(model, loaders['val'].collate_fn([packed]), evaluator, part)


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


def _train(cfg: Config, model: nn.Module, batch: Any, report: Report) -> None:
    optimizer = _optimizer(cfg, model)
    if not isinstance(optimizer, OptimWrapper):
        return
    model.train()
    with explained(
        'the first step of training fails',
        'check that the heads fit the data, and the network the images',
    ):
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
    infinite = [name for name, value in values.items() if not np.isfinite(value)]
    if infinite:
        raise UsageError(
            f'the first step of training gives a {infinite[0]} that is not finite; check the '
            'boxes of the training set (units, order of corners) and the weights of the losses'
        )
    report.add('first step', ', '.join(f'{name} {value:.3g}' for name, value in values.items()))
    of_boxes = [value for name, value in values.items() if 'bbox' in name]
    if of_boxes and not any(of_boxes):
        report.warnings.append(
            'no box loss in the first step: no box of the sample has an anchor or point'
        )
    wrapper = cfg.get('model_wrapper_cfg') or cfg
    if without and not wrapper.get('find_unused_parameters'):
        remedy = 'set find_unused_parameters=True'
        neck = cfg.model.get('neck')
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


def _predict(model: nn.Module, batch: Any, evaluator: Evaluator, part: Part) -> None:
    model.eval()
    with explained(
        'the first evaluation fails', 'check that heads, test_cfg and val_evaluator fit'
    ):
        with torch.no_grad():
            outputs = [output.to_dict() for output in model.test_step(batch)]
        for metric in evaluator.metrics:
            score(metric, part, outputs)
