"""How long a run trains, and room for it: on the disk for checkpoints, in memory for weights."""

import os
import shutil
from pathlib import Path
from typing import NamedTuple, Optional, Tuple

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import get_world_size
from torch import nn

from ..engine.config import dicts, type_name
from ..engine.errors import UsageError
from .files import is_remote
from .report import Report, size

MOMENTS = {'SGD': 1, 'RMSprop': 1, 'Adagrad': 1, 'Lion': 1}
"""Tensors that an optimizer keeps for each parameter, where they are not AdamW's two."""


class Plan(NamedTuple):
    """A training in figures.

    Attributes:
        epoch: iterations of a pass over the data.
        length: epochs or iterations of the whole run; None where the loop is of another kind.
        by_epoch: which of the two it is.
    """

    epoch: int
    length: Optional[int]
    by_epoch: bool

    @property
    def iterations(self) -> Optional[int]:
        """Iterations of the whole run."""
        return self.length * self.epoch if self.length and self.by_epoch else self.length


def check_schedule(cfg: Config, batches: int, report: Report) -> Plan:
    """Say how long a run trains and at what rate, and whether its warm-up fits into it.

    Args:
        cfg: config of the run.
        batches: of a pass over the training data.
        report: facts and warnings are added to it.
    """
    loop = cfg.get('train_cfg') or {}
    by_epoch = loop.get('max_epochs') is not None
    plan = Plan(batches, loop.get('max_epochs') if by_epoch else loop.get('max_iters'), by_epoch)
    each = cfg.train_dataloader.get('batch_size')
    report.add('batch', f'{each} x {get_world_size()} process(es)')
    report.add('iterations per epoch', f'{batches:,}')
    unit = 'epochs' if by_epoch else 'iterations'
    report.add('length', f'{plan.length:,} {unit}' if plan.length else 'as its loop says')
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    meant = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    rate = f'{type_name(optimizer)}, lr {optimizer.get("lr")}'
    if meant and not cfg.auto_scale_lr.get('enable'):
        rate += f' (meant for a total batch of {meant:g})'
    report.add('optimizer', rate)
    schedulers = [part for _, part in dicts(cfg.get('param_scheduler'), '') if type_name(part)]
    for part in schedulers:
        by_iter = not part.get('by_epoch', True)
        end = part.get('end')
        report.add(
            'schedule',
            f'{type_name(part)} {part.get("begin", 0)} to {"the end" if end is None else end}'
            f'{" (iterations)" if by_iter else ""}',
        )
        warms = type_name(part) in ('LinearLR', 'ConstantLR') and not part.get('begin', 0)
        if warms and end and plan.iterations:
            end *= 1 if by_iter else batches
            if 2 * end > plan.iterations:
                report.warn(
                    f'the warm-up takes {end:,} of the {plan.iterations:,} iterations of this '
                    'run; shorten it (end of the first param_scheduler) or train longer'
                )
    return plan


def check_disk(cfg: Config, model: nn.Module, plan: Plan, nearest: Path, report: Report) -> None:
    """Make sure that the disk of the work dir has room for the checkpoints that the run keeps.

    A checkpoint has the weights, the moments of the optimizer and, with an EMAHook, the average.
    A run keeps as many as ``max_keep_ckpts`` says, else all, the best one of each metric, and
    one more while an older one is not yet removed. Those that the work dir holds already, of a
    run that goes on, are not counted again.

    Args:
        cfg: config of the run.
        model: its network, on any device.
        plan: figures of the run.
        nearest: folder in which the work dir is or will be.
        report: a fact is added to it.

    Raises:
        UsageError: it has not; the message has the figures.
    """
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if is_remote(str(hook.get('out_dir') or '')):
        report.add('disk', 'not looked at: checkpoints go to remote storage')
        return
    weights, _, moments = _sizes(cfg, model)
    each = weights + (moments if hook.get('save_optimizer', True) else 0)
    if any(type_name(part) == 'EMAHook' for _, part in dicts(cfg.get('custom_hooks'), '')):
        each += weights
    number = _number(hook, plan)
    present = 0
    if str(nearest) == str(Path(cfg.work_dir).expanduser().absolute()):
        present = sum(1 for name in ('epoch_*.pth', 'iter_*.pth') for _ in nearest.glob(name))
    needed, free = max(number - present, 1) * each, shutil.disk_usage(nearest).free
    figures = f'{number} of {size(each)} each, {size(needed)} in all; {size(free)} are free'
    if needed > free:
        raise UsageError(
            f'the disk of work dir {cfg.work_dir} has no room for the checkpoints of this run '
            f'({figures}); make room, give another --work-dir, or keep fewer with --cfg-options '
            'default_hooks.checkpoint.max_keep_ckpts=2'
        )
    report.add('checkpoints', figures)


def _number(hook: dict, plan: Plan) -> int:
    """The most checkpoints that there are at one time; one where the loop does not say."""
    length, by_epoch = plan.length or 1, hook.get('by_epoch', True)
    if by_epoch != plan.by_epoch:
        length = -(-length // plan.epoch) if by_epoch else length * plan.epoch
    interval, most = hook.get('interval', 1), hook.get('max_keep_ckpts', -1)
    kept = length // interval if interval > 0 else 0
    if hook.get('save_last', True) and (interval <= 0 or length % interval):
        kept += 1
    if 0 < most < kept:
        kept = most + 1
    best = hook.get('save_best')
    metrics = 0 if not best else len(best) if isinstance(best, (list, tuple)) else 1
    return kept + (metrics + 1 if metrics else 0)


def check_memory(cfg: Config, model: nn.Module, report: Report) -> None:
    """Make sure that weights, gradients and moments fit the memory of the device.

    Raises:
        UsageError: they do not.
    """
    least, (name, there) = sum(_sizes(cfg, model)), _memory()
    figures = f'{size(least)} for weights, gradients and moments'
    if there is not None and least > there:
        raise UsageError(
            f'training needs {figures}, but {name} has {size(there)}; choose a smaller '
            'network, or shard it over several GPUs'
        )
    has = 'cannot be asked' if there is None else f'has {size(there)}'
    report.add('memory', f'{figures}, the images come on top; {name} {has}')


def _sizes(cfg: Config, model: nn.Module) -> Tuple[int, int, int]:
    """Bytes of the state dict, of the gradients, and of what the optimizer keeps."""
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    gradients = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    return weights, gradients, gradients * MOMENTS.get(type_name(optimizer), 2)


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
