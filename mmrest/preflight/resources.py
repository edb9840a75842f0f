"""Checks of initial weights, disk space and shared memory."""

import math
import os
import os.path as osp
import shutil
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import numpy as np
from mmengine.config import Config
from torch import nn
from torch.utils.data import DataLoader

from ..checkpoint import CheckpointError, check_writable, read_weights, summary
from ..checkpoint.reading import ZOOS
from ..engine.compat import load_from_guarded
from ..engine.config import hooks, type_name
from ..engine.resuming import progress_of
from ..engine.weight_hooks import InitWeightsHook, StrictWeightsHook
from ..errors import UsageError
from ..models.pretrained import StrictPretrained, from_files
from .data import image_of
from .findings import Report
from .schedule import length_of


def check_disk(cfg: Config, model: nn.Module, batches: int, report: Report) -> None:
    """Check that there is enough disk space for the checkpoints of a run.

    A run keeps ``max_keep_ckpts``, or else all, the best of each metric, and one more until an
    older one is removed. Checkpoints of a resumed run are not counted again.

    Raises:
        UsageError: there is not; the message has the numbers.
    """
    hook, folder, option = cfg.default_hooks.get('checkpoint'), cfg.work_dir, '--work-dir'
    if hook is None or is_remote(hook.get('out_dir') or folder):
        return
    if hook.get('out_dir'):
        option = 'default_hooks.checkpoint.out_dir'
        folder = osp.join(hook['out_dir'], osp.basename(folder.rstrip('/')))  # as mmengine's hook
    free = shutil.disk_usage(check_writable(folder, option)).free
    tensors = model.state_dict().values()
    checkpoint = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if any(type_name(part) == 'EMAHook' for _, part in hooks(cfg)):
        checkpoint *= 2
    if hook.get('save_optimizer', True):
        moments = 1 if type_name(cfg.optim_wrapper.get('optimizer') or {}) == 'SGD' else 2
        trained = [p.numel() * p.element_size() for p in model.parameters() if p.requires_grad]
        checkpoint += sum(trained) * moments
    rarely = hook.get('by_epoch', True) and cfg.train_cfg.get('max_iters')
    if rarely and hook.get('interval', 1) > 0:
        report.warnings.append(
            'default_hooks.checkpoint counts epochs, but the run counts iterations, so it saves '
            'only at the end; set by_epoch=False'
        )
    number = _number(hook, batches, *length_of(cfg))
    path = Path(folder).expanduser()
    saved = [*path.glob('epoch_*.pth'), *path.glob('iter_*.pth')]
    needed = max(number - len(saved), 1) * checkpoint
    sizes = f'{_size(checkpoint)} each, {_size(needed)} in all'
    numbers = f'{number} of {sizes}; {_size(free)} are free'
    if needed > free:
        raise UsageError(
            f'not enough disk space in {folder} for the checkpoints of this run '
            f'({numbers}); free some, use another {option}, or keep fewer with --cfg-options '
            'default_hooks.checkpoint.max_keep_ckpts=1'
        )
    report.add('checkpoints', numbers)
    if not number:
        report.warnings.append(
            'no checkpoint will be saved; set default_hooks.checkpoint.save_last=True, or a '
            'smaller interval'
        )


def check_shared_memory(loader: DataLoader, sample: Any, report: Report) -> None:
    """Warn if the batches of a loader's workers may not fit into shared memory.

    A worker that cannot allocate it sends nothing, and the run waits forever.
    """
    image, size = image_of(sample), getattr(loader.batch_sampler, 'batch_size', None)
    if image is None or size is None or loader.prefetch_factor is None:
        return
    batches = loader.num_workers * loader.prefetch_factor
    images = int(np.sum(size)) * batches * int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    free = shutil.disk_usage('/dev/shm').free if osp.isdir('/dev/shm') else math.inf
    needed = images * image.nbytes
    if needed > free:
        report.warnings.append(
            f'{loader.num_workers} workers of train_dataloader prefetch {batches} batches, '
            f'{_size(needed)}, but /dev/shm has {_size(free)}, and a run waits forever if it is '
            'full; start the container with --shm-size=8g (or --ipc=host), or set num_workers=0'
        )


def _number(hook: dict, batches: int, length: Optional[int], by_epoch: bool) -> int:
    """Return the maximum number of checkpoints at one time; one if the length is unknown."""
    length, saves_by_epoch = int(length or 1), hook.get('by_epoch', True)
    if saves_by_epoch and not by_epoch:
        length = 1  # an iteration-based run is one epoch for its hooks
    elif by_epoch and not saves_by_epoch:
        length *= batches
    interval, most = int(hook.get('interval', 1)), hook.get('max_keep_ckpts', -1)
    first = int(hook.get('save_begin') or interval)
    due = range(first, length + 1, interval) if interval > 0 else ()
    kept = len(due) + bool(hook.get('save_last', True) and length not in due)
    if 0 < most < kept:
        kept = most + 1
    best = np.size(hook.get('save_best') or ())
    return kept + best + (best > 0)  # the previous best one is removed last


def _size(count: float) -> str:
    return f'{count / 2**30:.1f} GiB' if count >= 2**30 else f'{count / 2**20:.0f} MiB'


def is_remote(path: str) -> bool:
    """Return True for an address, or a name in a model zoo."""
    return '://' in path or path.startswith(ZOOS)


def check_weights(
    cfg: Config, model: nn.Module, phases: Tuple[str, ...], report: Report
) -> Dict[str, Any]:
    """Check that the weights from which a run is initialised can be read and match.

    Weights of a backbone must cover it, see :meth:`.StrictPretrained.fit`. In training,
    ``load_from`` must cover the backbone. A checkpoint to resume or test must cover the full
    model. Remote weights are not checked.

    Returns:
        A checkpoint to resume, without its tensors; empty if there is none.

    Raises:
        CheckpointError: a file cannot be read or does not match.
    """
    training, elsewhere = 'train' in phases, 'not checked: not on this machine'
    pretrained = list(from_files(model)) if training else []
    for name, module, init_cfg in pretrained:  # also by a resumed run
        path = str(init_cfg['checkpoint'])
        # No zoo has weights of our backbones, and reading says so.
        ours = isinstance(module, StrictPretrained)
        remote = is_remote(path) and not (ours and path.startswith(ZOOS))
        fit = f'{path}: {elsewhere}' if remote else _fitted(module, init_cfg)
        report.add(f'pretrained weights of {name or "the model"}', fit)
    path = osp.expanduser(cfg.get('load_from') or '')
    if is_remote(path):
        report.add('checkpoint', f'{path}: {elsewhere}')
    elif path:
        resuming = training and bool(cfg.get('resume'))
        hook = StrictWeightsHook(resuming) if resuming or not training else InitWeightsHook()
        checkpoint = load_from_guarded(path, 'cpu')
        report.add('checkpoint', hook.fitted(model, path, checkpoint).report)
        if resuming and not cfg.get('strategy'):  # one may flatten parameters and their groups
            return progress_of(checkpoint)
    elif training and not pretrained:
        report.add('weights', 'none, random initialisation')
        # Not fixed position embeddings, or the copies of momentum networks.
        fixed = [name for name, p in model.named_parameters() if not p.requires_grad]
        fixed = [name for name in fixed if 'backbone.' in name and 'teacher' not in name]
        frozen = sum(name.endswith(('.weight', '.bias')) for name in fixed)
        if frozen:
            report.warnings.append(
                f'{frozen} frozen parameter tensors keep random values: set init_cfg, load_from, '
                'or pass --pretrained, or lower frozen_stages'
            )
    return {}


def _fitted(module: nn.Module, init_cfg: dict) -> str:
    weights = read_weights(str(init_cfg['checkpoint']), init_cfg.get('prefix'))
    if isinstance(module, StrictPretrained):
        return module.fit(weights)[1]
    source, tensors, wanted = weights.source, weights.tensors, module.state_dict()
    fits = any(name in wanted and t.shape == wanted[name].shape for name, t in tensors.items())
    if not fits and not getattr(module, 'convert_weights', False):  # as Swin and PVT do
        raise CheckpointError(
            f'{source} does not match {type(module).__name__}: 0 of its {len(tensors)} tensors '
            'have a matching name and shape; use other weights, or set init_cfg.prefix'
        )
    return summary(source, tensors, wanted)
