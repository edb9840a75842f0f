"""The first step and evaluation of a run, on small images."""

import contextlib
import copy
import logging
import os.path as osp
import sys
import traceback
from importlib.util import find_spec
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.evaluator import Evaluator
from mmengine.hooks import CheckpointHook, Hook
from mmengine.optim import OptimWrapperDict
from mmengine.registry import HOOKS, TRANSFORMS, VISBACKENDS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from ..engine.building import build_runner
from ..engine.compat import use_parts
from ..engine.config import confined, dicts, hooks
from ..engine.distributed import unwrapped
from ..engine.resuming import follow_config
from ..errors import UsageError, explained, first_line, some
from ..models.pretrained import from_files
from ..models.pyramid import PyramidBackbone
from .classes import IGNORE_INDEX
from .data import Part, Sample, image_of
from .evaluation import BEST, monitored
from .findings import Report

SIDE = 320
"""Side of the images, in pixels; a step takes seconds on a laptop."""

SCALES = (0.02, 128)
"""Usual standard deviations of normalised images; the upper one allows for no division by std."""

EVALUATION_FAULT = 'the first evaluation fails', 'check heads, test_cfg and val_evaluator'
"""Fault and fix of an error in an evaluation."""


class _Enough(BaseException):
    """The rehearsal of a run is complete."""


class _FirstStep(Hook):
    """Hook that checks the first step of a run, evaluates one prediction, and ends the run."""

    priority = 'LOWEST'  # the hooks of the run come first

    def __init__(self, cfg: Config, resumed: dict, report: Report) -> None:
        # Fault and fix of an error at this stage.
        self.stage = 'the run cannot be set up', 'correct its config'
        self._cfg, self._resumed, self._report = cfg, resumed, report

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Compare with the checkpoint to resume, and check the scale of the images."""
        if self._resumed:
            source = str(self._cfg.load_from)
            self._report.warnings += follow_config(runner, self._resumed, source)
        self.stage = 'the first step of training fails', 'check that network and data match'
        model = unwrapped(runner)
        if not isinstance(runner.optim_wrapper, OptimWrapperDict):
            runner.optim_wrapper.optimizer.register_step_pre_hook(
                lambda optimizer, *args: self._check_gradients(model, optimizer)
            )
        images, preprocessor = None, getattr(model, 'data_preprocessor', None)
        if hasattr(preprocessor, 'mean'):
            images = image_of(preprocessor(copy.deepcopy(data_batch), True))
        if images is not None:
            scale = images.float().std().item()
            if not SCALES[0] < scale < SCALES[1]:
                self._report.warnings.append(
                    f'images have a standard deviation of {scale:.2g} after data_preprocessor: '
                    'its mean and std must be those of values of 0 to 255, and no transform of '
                    'the pipeline may normalise'
                )

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Check the losses, evaluate, and end the run."""
        losses = {k: float(v) for k, v in dict(outputs or {}).items() if 'loss' in k}
        for name, value in losses.items():
            if not np.isfinite(value):
                raise UsageError(
                    f'the first step of training gives {name} {value}; check data_preprocessor, '
                    'the losses, and boxes, if there are any (units, order of corners)'
                )
        self._report.add('first step', ', '.join(f'{k} {v:.3g}' for k, v in losses.items()))
        self.stage = EVALUATION_FAULT
        if hasattr(runner.train_loop, 'evaluate_if_due'):
            runner.train_loop.evaluate_if_due(sys.maxsize, sys.maxsize)
            runner.train_loop.stop_evaluation()  # if Ctrl-C asked for it
        elif runner.val_loop is not None:  # a training loop of the user's own
            runner.val_loop.run()
        raise _Enough

    def after_val_epoch(self, runner: Runner, metrics: Optional[Dict[str, float]] = None) -> None:
        """Warn of metrics that hooks wait for, also of evaluators that were not rehearsed."""
        if not metrics:
            return
        self._report.warnings += [
            f'{key} is {name}, but the first evaluation gave {some(metrics, 20)}; set one of these'
            for key, name in monitored(self._cfg)
            if name not in metrics
        ]
        for _, hook in hooks(self._cfg):
            if hook.get('save_best') == 'auto':  # raises unless it knows whether more is better
                HOOKS.build(dict(hook, save_best=next(iter(metrics))))

    def _check_gradients(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        groups = [g for g in optimizer.param_groups if g.get('initial_lr', g['lr'])]
        grads = [p.grad for group in groups for p in group['params'] if p.grad is not None]
        if not any(grad.any() for grad in grads):
            raise UsageError(
                'the first step of training changes nothing: all gradients or learning rates are '
                '0; check lr, lr_mult and clip_grad of optim_wrapper, loss_weight of the heads, '
                'and that labels are not all ignored'
            )
        without = {n: p for n, p in model.named_parameters() if p.requires_grad and p.grad is None}
        strategy = self._cfg.get('strategy') or {}
        options = strategy.get('model_wrapper') or self._cfg.get('model_wrapper_cfg') or self._cfg
        if not without or options.get('find_unused_parameters') or options.get('static_graph'):
            return
        remedy, backbone = 'set find_unused_parameters=True', getattr(model, 'backbone', None)
        if isinstance(backbone, PyramidBackbone) and backbone.output_norms:
            outputs, unused = backbone.out_indices, set(without.values())
            unread = [stage for stage in outputs if backbone.output_norm(stage).weight in unused]
            if unread and all(name.startswith('backbone.') for name in without):
                read = tuple(stage for stage in outputs if stage not in unread)
                remedy = (
                    f'no neck or head reads stage {some(unread)}: set '
                    f'model.backbone.out_indices={read}, and count start_level and in_channels '
                    'of the neck, or in_index of the heads, from its first entry'
                )
        self._report.warnings.append(
            f'{len(without)} parameters get no gradient ({some(without, 2)}), so distributed '
            f'training fails with "Expected to have finished reduction"; {remedy}'
        )


def check_run(
    cfg: Config,
    loaders: Dict[str, DataLoader],
    parts: Dict[str, List[Part]],
    evaluator: Optional[Evaluator],
    resumed: dict,
    folder: str,
    report: Report,
) -> None:
    """Train for one step with the Runner and the hooks of a run, and evaluate one prediction.

    Images are reduced, weights are not read from files, and the network is not compiled. The
    rehearsal writes to `folder`; `resumed` is the checkpoint to resume, without its tensors.

    Raises:
        UsageError: the run cannot be set up, its first step or evaluation fails, a loss is not
            finite, or the step changes nothing.
        CheckpointError: the optimizer is not that of the checkpoint.
    """
    step = _FirstStep(cfg, resumed, report)
    inputs = _inputs(loaders['train'], parts['train'])
    val_samples = [
        s for part in parts.get('val', ()) for s in part.samples if s.packed is not None
    ]
    runner = None
    try:
        runner = _runner(cfg, folder)
        for hook in runner.hooks:
            Compose(copy.deepcopy(getattr(hook, 'switch_pipeline', ())))  # built epochs later
        if not inputs:
            report.warnings.append('no step of training was tried: samples are not single images')
        sides = [max(image.shape[-2:]) for image in map(image_of, inputs) if image is not None]
        preprocessor = getattr(unwrapped(runner), 'data_preprocessor', None) or nn.Module()
        for module in preprocessor.modules():
            if sides and getattr(module, 'size', None) is not None:  # it would pad the images
                module.size = (max(sides), max(sides))
        # An evaluator of several datasets needs a sample of each.
        if val_samples and type(evaluator).__name__ != 'MultiDatasetsEvaluator':
            loader = _loader(loaders['val'], [_corner(val_samples[0])])
            use_parts(runner, val_evaluator=evaluator, val_dataloader=loader)
        else:
            use_parts(runner, val_loop=None)
        runner.register_hook(step)
        with contextlib.suppress(_Enough):
            if inputs:
                loader = _loader(loaders['train'], inputs, len(loaders['train']))
                use_parts(runner, train_dataloader=loader)
                runner.train()
            elif runner.val_loop is not None:
                step.stage = EVALUATION_FAULT
                # As in a training, whose hooks may prepare evaluations in it.
                step.before_run = lambda runner: runner.call_hook('before_train')
                runner.val()
    except Exception as error:
        fault, remedy = step.stage
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        scoring = [f.f_locals for f in frames if f.f_code.co_name == 'compute_metrics']
        name = type(scoring[0].get('self')).__name__ if scoring else ''
        if name and name not in BEST:  # such as that of ReID
            report.warnings.append(
                f'{name} fails on one image: {first_line(error)}; if it needs several, ignore this'
            )
            return
        with explained(fault + place_of(error), remedy):
            raise error
    finally:
        for handler in list(runner.logger.handlers) if runner is not None else ():
            if isinstance(handler, logging.FileHandler):  # of a file in the folder
                runner.logger.removeHandler(handler)
                handler.close()


def place_of(error: Exception) -> str:
    """Return the innermost module of a network in which an error was raised; empty for none."""
    frames = [frame.f_locals for frame, _ in traceback.walk_tb(error.__traceback__)]
    owners = [local['self'] for local in frames if isinstance(local.get('self'), nn.Module)]
    if not owners:
        return ''
    names = {module: name for name, module in owners[0].named_modules()}
    return f' in {names.get(owners[-1]) or "model"}'


def _runner(cfg: Config, folder: str) -> Runner:
    """Return the runner of a run that writes to a folder, and saves no checkpoints.

    Strategies, which build their model later, are left out.
    """
    given = cfg.get('visualizer')
    backends = given.get('vis_backends') or () if isinstance(given, dict) else ()
    for part in [backends] if isinstance(backends, dict) else backends:
        options = {key: value for key, value in part.items() if key != 'name'}
        kind = type(VISBACKENDS.build(dict(options, save_dir=folder)))
        package = kind.__name__.replace('VisBackend', '').lower()
        needs_package = kind.__module__.startswith('mmengine') and package != 'local'
        if needs_package and find_spec(package) is None:  # imported when the run starts
            raise UsageError(
                f'{kind.__name__} needs {package}, which is not installed: install it, or use '
                'another backend'
            )
    cfg = confined(cfg, folder)
    for key in ('runner_type', 'strategy'):
        cfg.pop(key, None)
    cfg.optim_wrapper.pop('accumulative_counts', None)
    for key, part in dicts(cfg.model, 'model'):
        if 'test_cfg' in key and 'score_thr' in part:
            part['score_thr'] = 0  # otherwise an untrained detector has no boxes for NMS
    cfg.setdefault('launcher', 'none')
    randomness = {'seed': None, **(cfg.get('randomness') or {}), 'deterministic': False}
    cfg.update(work_dir=folder, load_from=None, resume=False, compile=False, randomness=randomness)
    cfg.experiment_name = osp.basename(folder)  # loggers are shared by name
    runner = build_runner(cfg, verbose=True)
    runner.hooks[:] = [hook for hook in runner.hooks if not isinstance(hook, CheckpointHook)]
    for hook in runner.hooks:
        if getattr(hook, 'draw', False):  # otherwise, what fails would show much later
            hook.interval = 1
    for _, module, _ in list(from_files(unwrapped(runner))):
        module.init_cfg = None
    return runner


class _Prepared(list):
    """Prepared samples of a dataset, with its attributes."""

    def __init__(self, dataset: Any, samples: List[Any]) -> None:
        super().__init__(samples)
        self._inner = dataset

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _loader(loader: DataLoader, samples: List[Any], batches: int = 1) -> DataLoader:
    """Return a loader whose batches are the same samples."""
    dataset = _Prepared(loader.dataset, samples * batches)
    return DataLoader(dataset, batch_size=len(samples), collate_fn=loader.collate_fn)


def _inputs(loader: DataLoader, parts: Sequence[Part]) -> List[Any]:
    """Return a batch of small images, with objects if possible, or of what a wrapper packs.

    Empty if there are too few samples, or they have several branches.
    """
    sizes = np.ravel(getattr(loader.batch_sampler, 'batch_size', 1))
    size, count = int(min(2, *sizes)), len(loader.dataset)
    usable = [(p, s) for p in parts for s in p.samples if image_of(s.packed) is not None]
    usable.sort(key=lambda item: not _is_labelled(item[1]))
    usable = (usable * size)[:size]
    if len(usable) == size and all(part.is_usual for part, _ in usable):
        inputs = [_small(part, sample) for part, sample in usable]
    else:
        with explained('train_dataloader.dataset fails on its first samples'):
            inputs = [loader.dataset[index % count] for index in range(size)]
    packed = [each for each in inputs if isinstance(each, dict)]
    return [] if any(isinstance(each.get('inputs'), dict) for each in packed) else inputs


def _is_labelled(sample: Sample) -> bool:
    if 'gt_sem_seg' in sample.truth:
        maps = sample.truth.gt_sem_seg.values()  # mmdet's and mmseg's have other names
        return any(bool((labels != IGNORE_INDEX).any()) for labels in maps)
    return sample.boxes != 0


def _small(part: Part, sample: Sample) -> Any:
    """Return a packed sample of a small image; classifiers, whose images are small, get theirs."""
    has_boxes = 'gt_instances' in sample.truth
    resized = has_boxes or 'gt_sem_seg' in sample.truth
    if not resized or 'gt_edge_map' in sample.truth:  # mmcv does not resize edges
        return sample.packed
    resize = dict(type='mmdet.Resize' if has_boxes else 'mmcv.Resize', scale=(SIDE, SIDE))
    small = part.prepare(sample.info, TRANSFORMS.build(resize))
    return small or sample.packed  # random transforms may drop it


def _corner(sample: Sample) -> Any:
    """Return a packed sample with a corner of its image, whose predictions are then too small."""
    image, truth = image_of(sample.packed), sample.truth
    if image is None or ('gt_instances' not in truth and 'gt_sem_seg' not in truth):
        return sample.packed
    truth, image = truth.clone(), image[..., :SIDE, :SIDE]
    truth.set_metainfo(dict(img_shape=tuple(image.shape[-2:])))
    return dict(sample.packed, inputs=image, data_samples=truth)
