"""Check of evaluators: the ground truth as predictions must get the best score."""

import inspect
from itertools import chain
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.registry import LOOPS, METRICS
from mmengine.runner import Runner, ValLoop
from mmengine.structures import InstanceData, PixelData
from torch.nn.functional import interpolate, one_hot

from ..engine.building import find_type
from ..engine.config import confined, dicts, hooks, type_name
from ..errors import UsageError, explained, some
from .data import Part, Sample
from .findings import Report

BEST = {
    'CocoMetric': {'bbox_mAP': 1.0, 'segm_mAP': 1.0},
    'VOCMetric': {'mAP': 1.0},
    'IoUMetric': {'mIoU': 100.0, 'mDice': 100.0, 'mFscore': 100.0},
    'Accuracy': {'top1': 100.0},
}
"""Metrics that can be rehearsed, and their best scores."""

MIN_SHARE = 0.9
"""Required share of the best score; datasets drop tiny boxes of annotation files."""

MAX_BOXES = 100
"""Maximum number of boxes per image in COCO's metric."""


def check_evaluator(
    cfg: Config, phase: str, parts: List[Part], folder: str, report: Report
) -> Tuple[Evaluator, List[str]]:
    """Check that perfect predictions get the best score.

    The metrics write their files to `folder`.

    Returns:
        The evaluator, and the names of its scores; no names if not all are known.

    Raises:
        UsageError: the evaluator cannot be built or fails, or the score is too low.
    """
    where, node = f'{phase}_evaluator', confined(cfg, folder)[f'{phase}_evaluator']
    for key, part in dicts(node, where):
        kind = find_type(METRICS, part.get('type'))
        if inspect.isclass(kind):  # mmseg's metrics accept and ignore any argument
            known = {'type', '_scope_'}
            known.update(*(inspect.signature(base.__init__).parameters for base in kind.__mro__))
            report.warnings += [
                f'{key}.{name} is not an argument of {kind.__name__}; correct its spelling'
                for name in sorted(part.keys() - known)
            ]
    with explained(f'{where} cannot be built'):
        evaluator = Runner.build_evaluator(None, node)  # does not use its runner
    for metric in evaluator.metrics:
        if not getattr(metric, 'format_only', False) and getattr(metric, '_coco_api', None):
            _check_file(where, metric, parts[0].classes, report)
    if len(parts) > 1 and type(evaluator).__name__ == 'MultiDatasetsEvaluator':
        return evaluator, []  # each metric is for another dataset
    scores = [_check_metric(where, metric, parts, report) for metric in evaluator.metrics]
    return evaluator, list(chain(*scores)) if all(scores) else []


def check_monitored(cfg: Config, names: List[str]) -> None:
    """Raise UsageError if a hook of a training waits for a score that is not one of these."""
    loop = find_type(LOOPS, cfg.val_cfg.get('type', 'ValLoop'))
    if getattr(loop, 'run', None) is not ValLoop.run:
        return  # it may rename them
    for key, name in monitored(cfg):
        if name not in names:
            raise UsageError(
                f'{key} is {name}, which is not a metric of val_evaluator; set one of '
                f'{some(names, 20)}'
            )


def _check_file(where: str, metric: Any, classes: Optional[List[str]], report: Report) -> None:
    """Check all annotations that CocoMetric evaluates, because the rehearsal tries only some."""
    api = metric._coco_api
    labels = set(api.get_cat_ids(cat_names=classes))
    masks = 'segm' in getattr(metric, 'metrics', ())
    for entry in list(api.anns.values()):
        if 'bbox' not in entry or entry.get('category_id') not in labels:
            continue  # not evaluated, or a list of a panoptic file
        fault = ''
        for key in ('area', 'iscrowd'):
            if entry.get(key) is None:
                fault = f'no {key}; add it to each annotation (iscrowd is 0, or 1 for crowds)'
        mask = entry.get('segmentation')
        first = mask[0] if isinstance(mask, list) and mask else None
        if masks and (not mask or (isinstance(first, list) and len(first) < 5)):
            fault = (
                f'the segmentation {str(mask)[:40]}, which pycocotools cannot read; start it with '
                'a polygon of 3 points or more'
            )
        if fault:
            raise UsageError(f'annotation {entry["id"]} in the ann_file of {where} has {fault}')
        if entry['id'] == 0:
            report.warnings.append(
                f'an annotation in the ann_file of {where} has the id 0, which pycocotools always '
                'counts as missed; number the annotations from 1'
            )
            entry['id'] = -1  # for the rehearsal
            api.anns[-1] = entry


def monitored(cfg: Config) -> Iterator[Tuple[str, str]]:
    """Yield the dotted keys of hooks that name a metric, and its name."""
    for where, hook in hooks(cfg):
        for name in np.ravel(hook.get('save_best') or ()):
            if name != 'auto':
                yield f'{where}.save_best', name
        if type_name(hook) == 'EarlyStoppingHook' and 'monitor' in hook:
            yield f'{where}.monitor', hook['monitor']


def _check_metric(where: str, metric: Any, parts: List[Part], report: Report) -> List[str]:
    """Return the names of the scores; none if the metric cannot be rehearsed."""
    best = next((BEST[k.__name__] for k in type(metric).__mro__ if k.__name__ in BEST), None)
    samples = [(part, s) for part in parts for s in part.samples if s.packed is not None]
    if 'bbox_mAP' in (best or ()):
        samples = [(p, s) for p, s in samples if len(s.info.get('instances') or ()) <= MAX_BOXES]
    if best is None or getattr(metric, 'format_only', False) or not samples:
        return []
    part, first = samples[0]
    boxes = [i['bbox'] for _, s in samples for i in s.objects if 'bbox' in i]
    if 'segments_info' in first.info or any(len(box) != 4 for box in boxes):
        return []  # panoptic annotations, or rotated boxes
    place = f'{where} ({type(metric).__name__})'
    if 'mIoU' in best and part.classes:
        values = {v for _, s in samples for v in np.unique(s.label_map).tolist()}
        void = values - {metric.ignore_index} - set(range(len(part.classes)))
        if void:
            report.warnings.append(
                f'{place} ignores {metric.ignore_index}, but the label maps of {part.where} have '
                f'the value {some(sorted(void))}, which is no class and counts as wrong; set '
                f'{where}.ignore_index'
            )
    fault = f'{place} fails on the annotations of {part.where}'
    # A subclass that scores in its own way may need all images.
    is_own = 'compute_metrics' in vars(type(metric)) and type(metric).__name__ not in BEST
    try:
        with explained(fault, 'check that the metric is meant for this data'):
            scores = score(metric, samples)
    except UsageError:
        if is_own:
            return []
        raise
    if scores is None and 'instances' not in first.info:
        raise UsageError(
            f'{place} has nothing to compare with: the pipeline of {part.where} loads or packs no '
            'annotations; add LoadAnnotations, and end it with Pack...Inputs'
        )
    prefix = f'{metric.prefix}/' if metric.prefix else ''
    is_empty = 'instances' in first.info and not boxes  # the mAP of VOC is 0 then
    for name, value in (scores or {}).items():
        if name not in best or value == -1 or np.isnan(value) or is_empty:
            continue  # these samples have no annotations
        if value < MIN_SHARE * best[name]:
            raise UsageError(
                f'{place} gives {prefix}{name} {value:.3f} instead of {best[name]:g} for the '
                f'annotations of {part.where} as predictions; check that both read the same '
                'ann_file, the corners of the boxes, and that the pipeline changes no annotations'
            )
        report.add(f'{where} on the ground truth', f'{prefix}{name} {value:.3f}')
    return [prefix + name for name in scores or ()]


def score(metric: Any, samples: List[Tuple[Part, Sample]]) -> Optional[Dict[str, float]]:
    """Compute a metric on perfect predictions, one at a time because of their masks.

    Return None if the samples have no annotations to predict.
    """
    metric.dataset_meta, ids = samples[0][0].metainfo, []
    metric.nan_to_num = None  # or classes that these samples lack would count in mmseg's mean
    for part, sample in samples:
        predicted = perfect(part, sample, 'segm' in getattr(metric, 'metrics', ()))
        if predicted is not None:
            metric.process({}, [predicted.to_dict()])
            ids.append(predicted.get('img_id'))
    if hasattr(metric, 'img_ids'):
        metric.img_ids = ids
    results, metric.results = metric.results, []
    return dict(metric.compute_metrics(results)) if results else None


def perfect(part: Part, sample: Sample, masks: bool) -> Optional[Any]:
    """Return a sample whose prediction equals its annotation; None if that cannot be scored.

    `masks` are predicted only for a metric that reads them.
    """
    if not sample.truth:
        return None
    truth, info = sample.truth.clone(), sample.info
    if 'instances' in info:
        from mmdet.datasets.transforms import LoadAnnotations

        instances = [dict(instance, ignore_flag=0) for instance in sample.objects]
        masks = masks and all('mask' in instance for instance in instances)
        shape = (info.get('height'), info.get('width'))
        loaded = LoadAnnotations(with_mask=masks)(dict(instances=instances, ori_shape=shape))
        truth.pred_instances = InstanceData(
            bboxes=loaded['gt_bboxes'].tensor,
            labels=torch.from_numpy(loaded['gt_bboxes_labels']),
            scores=torch.ones(len(instances)),
        )
        if masks:
            truth.pred_instances.masks = torch.from_numpy(loaded['gt_masks'].masks)
    elif 'gt_sem_seg' in truth:
        labels = truth.gt_sem_seg.data[None].float()  # a prediction has the size of its image
        truth.pred_sem_seg = PixelData(data=interpolate(labels, truth.ori_shape[:2])[0].long())
    elif 'gt_label' in truth:
        labels = [np.max(s.info['gt_label'], initial=-1) for s in part.samples]
        number = max(len(part.classes or ()), int(max(labels)) + 1)
        truth.pred_score = one_hot(truth.gt_label.long(), number).sum(0).float()
    else:
        return None
    return truth
