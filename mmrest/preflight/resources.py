"""Weights that a run is initialised from, its length, and room on the disk for what it keeps."""

import os
import os.path as osp
import shutil
from pathlib import Path
from typing import Iterator, Optional, Tuple

from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.model import BaseTTAModel
from torch import nn

from ..checkpoint import CheckpointError, read_weights, summary
from ..engine.compat import load_from_guarded
from ..engine.config import dicts, type_name
from ..engine.errors import UsageError
from ..engine.weights import InitWeightsHook, StrictWeightsHook
from ..models.pretrained import StrictPretrained, is_from_file
from .report import Report

MOMENTS = {'SGD': 1, 'RMSprop': 1, 'Adagrad': 1, 'Lion': 1}
"""Tensors that an optimizer keeps for each parameter, if not two as AdamW."""


def check_schedule(cfg: Config, batches: int, report: Report) -> None:
    """Report how long a run trains and at what rate, and whether its warm-up fits.

    Args:
        cfg: config of the run.
        batches: of an epoch.
        report: facts and warnings are added to it.
    """
    length, by_epoch = _length(cfg)
    batch_size = cfg.train_dataloader.get('batch_size')
    report.add('batch', f'{batch_size} x {get_world_size()} process(es)')
    report.add('iterations per epoch', f'{batches:,}')
    unit = 'epochs' if by_epoch else 'iterations'
    report.add('length', f'{length:,} {unit}' if length else 'set by its loop')
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    scaling = cfg.get('auto_scale_lr') or {}
    meant = scaling.get('base_batch_size')
    rate = f' (for an effective batch size of {meant:g})' if meant else ''
    rate = '' if scaling.get('enable') else rate
    report.add('optimizer', f'{type_name(optimizer)}, lr {optimizer.get("lr")}{rate}')
    for _, part in dicts(cfg.get('param_scheduler'), ''):
        if not type_name(part):
            continue
        begin, end, by_iter = part.get('begin', 0), part.get('end'), not part.get('by_epoch', True)
        until = 'the end' if end is None else end
        unit = ' (iterations)' if by_iter else ''
        report.add('schedule', f'{type_name(part)} {begin} to {until}{unit}')
        if type_name(part) in ('LinearLR', 'ConstantLR') and not begin and end and length:
            end *= 1 if by_iter else batches
            iterations = length * (batches if by_epoch else 1)
            if 2 * end > iterations:
                report.warnings.append(
                    f'the warm-up takes {end:,} of the {iterations:,} iterations of this run; '
                    'shorten it (end of the first param_scheduler) or train longer'
                )


def check_disk(cfg: Config, model: nn.Module, batches: int, nearest: Path, report: Report) -> None:
    """Make sure that the disk of the work dir has room for the checkpoints that the run keeps.

    A checkpoint has the weights, the moments of the optimizer and, with an EMAHook, the EMA
    weights. A run keeps as many as ``max_keep_ckpts``, else all, the best of each metric, and one
    more until an older one is removed. Those already in the work dir, of a run that is resumed,
    are not counted again.

    Args:
        cfg: config of the run.
        model: its network, on any device.
        batches: of an epoch.
        nearest: folder that the work dir is or will be in.
        report: a fact is added to it.

    Raises:
        UsageError: it has not; the message has the numbers.
    """
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if is_remote(str(hook.get('out_dir') or '')):
        report.add('disk', 'not checked: checkpoints go to remote storage')
        return
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    each, number = weights, _number(hook, batches, *_length(cfg))
    if hook.get('save_optimizer', True):
        trained = [p.numel() * p.element_size() for p in model.parameters() if p.requires_grad]
        each += sum(trained) * MOMENTS.get(type_name(optimizer), 2)
    if any(type_name(part) == 'EMAHook' for _, part in dicts(cfg.get('custom_hooks'), '')):
        each += weights
    present = 0
    if nearest == Path(cfg.work_dir).expanduser().absolute():
        present = sum(1 for name in ('epoch_*.pth', 'iter_*.pth') for _ in nearest.glob(name))
    needed, free = max(number - present, 1) * each, shutil.disk_usage(nearest).free
    numbers = f'{number} of {_size(each)} each, {_size(needed)} in all; {_size(free)} are free'
    if needed > free:
        raise UsageError(
            f'not enough disk space in work dir {cfg.work_dir} for the checkpoints of this run '
            f'({numbers}); free some, use another --work-dir, or keep fewer with --cfg-options '
            'default_hooks.checkpoint.max_keep_ckpts=2'
        )
    report.add('checkpoints', numbers)


def _length(cfg: Config) -> Tuple[Optional[int], bool]:
    """Return epochs or iterations of a run, if its loop says them, and True for epochs."""
    loop = cfg.get('train_cfg') or {}
    by_epoch = loop.get('max_epochs') is not None
    return loop.get('max_epochs' if by_epoch else 'max_iters'), by_epoch


def _number(hook: dict, batches: int, length: Optional[int], by_epoch: bool) -> int:
    """Return the most checkpoints that there are at one time; one if the loop does not say."""
    length, saves_by_epoch = length or 1, hook.get('by_epoch', True)
    if saves_by_epoch != by_epoch:
        length = -(-length // batches) if saves_by_epoch else length * batches
    interval, most = hook.get('interval', 1), hook.get('max_keep_ckpts', -1)
    kept = length // interval if interval > 0 else 0
    if hook.get('save_last', True) and (interval <= 0 or length % interval):
        kept += 1
    if 0 < most < kept:
        kept = most + 1
    best = hook.get('save_best')
    return kept + (1 + len([best] if isinstance(best, str) else best) if best else 0)


def _size(count: float) -> str:
    return f'{count / 2**30:.1f} GiB' if count >= 2**30 else f'{count / 2**20:.0f} MiB'


def check_writable(folder: str) -> Path:
    """Make sure that a folder exists or could be made, and is writable; writes nothing.

    Returns:
        The nearest folder that exists.

    Raises:
        UsageError: a part of the path is not a folder, or not writable.
    """
    path = Path(folder).expanduser().absolute()
    nearest = next(part for part in (path, *path.parents) if part.exists())
    if not nearest.is_dir():
        raise UsageError(f'work dir {folder}: {nearest} is not a folder; use another --work-dir')
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UsageError(
            f'work dir {folder}: {nearest} is not writable; use another --work-dir or fix its '
            'permissions'
        )
    return nearest


def is_remote(path: str) -> bool:
    """Return True for an address, or a name in the model zoo of an OpenMMLab project."""
    zoos = ('modelzoo:', 'open-mmlab:', 'openmmlab:', 'mmcls:')
    return '://' in path or path.startswith(zoos)


def check_weights(cfg: Config, model: nn.Module, phases: Tuple[str, ...], report: Report) -> None:
    """Make sure that the weights a run is initialised from can be read and fit.

    Those of a backbone must cover it, as :meth:`.StrictPretrained.fit` says; ``load_from``
    of a training must cover the backbone, and what is resumed or tested the full model. Weights
    at an address are left to the run.

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
    elsewhere = 'not checked, it is not on this machine'
    # A run that resumes initialises its network all the same.
    for name, module, init_cfg in from_files(model) if training else ():
        path = str(init_cfg['checkpoint'])
        found = f'{path}: {elsewhere}' if is_remote(path) else _fitted(module, init_cfg)
        report.add(f'pretrained weights of {name or "the model"}', found)
    path = osp.expanduser(cfg.get('load_from') or '')
    if is_remote(path):
        report.add('checkpoint', f'{path}: {elsewhere}')
    elif path:
        resuming = training and bool(cfg.get('resume'))
        hook = StrictWeightsHook(resuming)
        if training and not resuming:
            hook = InitWeightsHook()
        fitted = hook.fitted(model, path, load_from_guarded(path, 'cpu'))
        report.add('checkpoint', fitted.report)


def from_files(model: nn.Module) -> Iterator[Tuple[str, nn.Module, dict]]:
    """Find the parts of a network that are initialised from files: name, part and init_cfg."""
    for name, module in model.named_modules():
        cfgs = getattr(module, 'init_cfg', None) or ()
        for cfg in cfgs if isinstance(cfgs, (list, tuple)) else (cfgs,):
            if isinstance(cfg, dict) and is_from_file(cfg):
                yield name, module, cfg


def _fitted(module: nn.Module, init_cfg: dict) -> str:
    weights = read_weights(str(init_cfg['checkpoint']), init_cfg.get('prefix'))
    if isinstance(module, StrictPretrained):
        return module.fit(weights)[1]
    wanted = module.state_dict()
    if not any(n in wanted and t.shape == wanted[n].shape for n, t in weights.tensors.items()):
        raise CheckpointError(
            f'{weights.source} does not fit: none of its {len(weights.tensors)} tensors has the '
            f'name and the shape of one of {type(module).__name__}; use other weights, or set '
            'init_cfg.prefix'
        )
    return summary(weights.source, weights.tensors, wanted)
