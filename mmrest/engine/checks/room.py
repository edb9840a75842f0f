"""Room for a training: on the disk for its checkpoints, in memory for its network."""

import os
import shutil
from pathlib import Path
from typing import NamedTuple, Optional, Tuple

import torch
from mmengine.config import Config
from mmengine.device import get_device
from torch import Tensor, nn

from ..config import dicts, type_name
from ..errors import UsageError
from .facts import Fact, Facts, size
from .files import is_remote
from .plan import Plan

MOMENTS = {'SGD': 1, 'RMSprop': 1, 'Adagrad': 1, 'Lion': 1}
"""Tensors that an optimizer keeps for each parameter, where they are not AdamW's two."""

SIZED = ('Resize', 'RandomResize', 'RandomChoiceResize')
"""Transforms that say how large the images of a training become."""


class Sizes(NamedTuple):
    """Bytes of a network in training.

    Attributes:
        weights: its state dict.
        gradients: of what is trained.
        moments: what the optimizer keeps.
    """

    weights: int
    gradients: int
    moments: int


def sizes(cfg: Config, model: nn.Module) -> Sizes:
    """Bytes of a network, of its gradients and of what its optimizer keeps.

    Args:
        cfg: config of the run.
        model: its network, on any device.
    """
    weights = sum(_bytes(tensor) for tensor in model.state_dict().values())
    gradients = sum(_bytes(p) for p in model.parameters() if p.requires_grad)
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    return Sizes(weights, gradients, gradients * MOMENTS.get(type_name(optimizer), 2))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def check_disk(cfg: Config, model: nn.Module, planned: Plan, nearest: Path) -> Facts:
    """Make sure that the disk of the work dir has room for the checkpoints that the run keeps.

    A checkpoint has the weights, the moments of the optimizer and, with an EMAHook, the average.
    A run keeps as many as ``max_keep_ckpts`` says, else all, the best one of each metric, and
    one more while an older one is not yet removed. Those that the work dir holds already, of a
    run that goes on, are not counted again.

    Args:
        cfg: config of the run.
        model: its network, on any device.
        planned: figures of the run.
        nearest: folder in which the work dir is or will be.

    Raises:
        UsageError: it has not; the message has the figures.
    """
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if is_remote(str(hook.get('out_dir') or '')):
        return [Fact('disk', 'not looked at: checkpoints go to remote storage')]
    of = sizes(cfg, model)
    each = of.weights + (of.moments if hook.get('save_optimizer', True) else 0)
    if any(type_name(part) == 'EMAHook' for _, part in dicts(cfg.get('custom_hooks'), '')):
        each += of.weights
    number = _number(cfg, hook, planned)
    if number is None:
        return [Fact('checkpoint', f'{size(each)} each')]
    present = sum(1 for name in ('epoch_*.pth', 'iter_*.pth') for _ in nearest.glob(name))
    if str(nearest) != str(Path(cfg.work_dir).expanduser().absolute()):
        present = 0
    needed, free = max(number - present, 1) * each, shutil.disk_usage(nearest).free
    figures = f'{number} of {size(each)} each, {size(needed)} in all; {size(free)} are free'
    if needed > free:
        raise UsageError(
            f'the disk of work dir {cfg.work_dir} has no room for the checkpoints of this run '
            f'({figures}); make room, give another --work-dir, or keep fewer with --cfg-options '
            'default_hooks.checkpoint.max_keep_ckpts=2'
        )
    return [Fact('checkpoints', figures)]


def _number(cfg: Config, hook: dict, planned: Plan) -> Optional[int]:
    """The most checkpoints that there are at one time; None where that cannot be told."""
    length = planned.length
    by_epoch = hook.get('by_epoch', True)
    if length and by_epoch != planned.by_epoch:
        if not planned.iterations:
            return None
        each = planned.iterations
        length = -(-length // each) if by_epoch else length * each
    if not length:
        return None
    interval = hook.get('interval', 1)
    kept = length // interval if interval > 0 else 0
    if hook.get('save_last', True) and (interval <= 0 or length % interval):
        kept += 1
    most = hook.get('max_keep_ckpts', -1)
    if 0 < most < kept:
        kept = most + 1
    best = hook.get('save_best')
    metrics = 0 if not best else len(best) if isinstance(best, (list, tuple)) else 1
    return kept + (metrics + 1 if metrics else 0)


def check_memory(cfg: Config, model: nn.Module, planned: Plan) -> Facts:
    """Compare what training takes, roughly, with the memory of the device.

    Counted are weights, gradients and moments, and what autograd keeps of backbone, neck and
    dense heads for a batch of the largest images that the pipeline makes: a forward pass on the
    meta device tells without computing. Half of that is counted under automatic mixed precision.
    Not counted are RoI heads, losses and what operators take for a moment, nor is it known what a
    device spares by fused operators: the estimate may be wrong by half. So only weights,
    gradients and moments beyond the memory are an error; else the summary says that it may not
    fit.

    Args:
        cfg: config of the run.
        model: its network, on any device.
        planned: figures of the run.

    Raises:
        UsageError: weights, gradients and moments alone are more than the device has.
    """
    of, (name, there) = sizes(cfg, model), _memory()
    least = sum(of)
    figures = f'{size(least)} for weights, gradients and moments'
    if there is not None and least > there:
        raise UsageError(
            f'training needs {figures}, but {name} has {size(there)}; choose a smaller '
            'network, or shard it over several GPUs'
        )
    height, width = largest_image(cfg)
    if not height or not planned.batch:
        figures += '; images of unknown size come on top'
    else:
        kept = _kept_for_backward(model, planned.batch, height, width)
        shape = f'{planned.batch} image(s) of {height} x {width}'
        if kept is None:
            figures += f'; what {shape} take could not be estimated for this network'
        else:
            if type_name(cfg.get('optim_wrapper') or {}) == 'AmpOptimWrapper':
                kept //= 2
            figures += f' and about {size(kept)} for {shape}'
            if there is not None and least + kept > there:
                figures += '; IT MAY NOT FIT: model.backbone.with_cp=True or a smaller batch helps'
    has = 'cannot be asked' if there is None else f'has {size(there)}'
    return [Fact('memory, roughly', f'{figures}; {name} {has}')]


def _memory() -> Tuple[str, Optional[int]]:
    """Name of the device of a training and its memory in bytes, None where that is unknown."""
    device = get_device()
    if device == 'cuda':
        # Asking for what is free would have every process take memory of the first GPU.
        properties = torch.cuda.get_device_properties(int(os.environ.get('LOCAL_RANK', 0)))
        return properties.name, properties.total_memory
    names = getattr(os, 'sysconf_names', {})
    if device == 'cpu' and {'SC_PHYS_PAGES', 'SC_PAGE_SIZE'} <= set(names):
        return 'this machine', os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    return device, None


def largest_image(cfg: Config) -> Tuple[int, int]:
    """Height and width, pixels, of the largest images that a training sees; zeros if unknown."""
    fixed = (cfg.model.get('data_preprocessor') or {}).get('size')
    if isinstance(fixed, (list, tuple)) and len(fixed) == 2:
        return fixed[0], fixed[1]
    width = height = 0
    dataset = (cfg.get('train_dataloader') or {}).get('dataset')
    for _, step in dicts(dataset, ''):
        kind = type_name(step)
        if kind == 'RandomResizedCrop':
            scale = step['scale']
            width, height = scale if isinstance(scale, (list, tuple)) else (scale, scale)
        elif kind in SIZED:
            scales = step.get('scales') or step.get('scale') or ()
            scales = scales if scales and isinstance(scales[0], (list, tuple)) else [scales]
            factor = max(step.get('ratio_range') or (1,))
            for scale in scales:
                if len(scale) == 2 and scale[0] * scale[1] * factor**2 > width * height:
                    width, height = (round(side * factor) for side in scale)
        elif kind == 'RandomCrop' and step.get('crop_type', 'absolute') == 'absolute' and width:
            crop = step['crop_size']
            height, width = min(height, crop[0]), min(width, crop[1])
    return height, width


def _kept_for_backward(model: nn.Module, batch: int, height: int, width: int) -> Optional[int]:
    """Bytes that autograd keeps of a forward pass; None for a network that cannot be told."""
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage  # held, so that no other one is given its address
        return tensor

    if not all(p.device.type == 'meta' for p in model.parameters()):
        return None
    try:
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with hooks, torch.device('meta'):
            maps = model.extract_feat(torch.zeros(batch, 3, height, width))
            for name in ('decode_head', 'auxiliary_head', 'bbox_head', 'rpn_head'):
                head = getattr(model, name, None)
                if head is not None:
                    head(maps)
    except Exception:  # whatever a network of another project does on the meta device
        return None
    return sum(storage.nbytes() for address, storage in kept.items() if address not in own)
