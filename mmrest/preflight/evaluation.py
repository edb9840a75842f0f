"""The evaluators of a run, fed with the ground truth as predictions: the score must be best."""

import copy
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.registry import EVALUATOR
from mmengine.structures import InstanceData, PixelData

from ..engine.config import first_line
from ..engine.errors import UsageError
from .data import Part, Sample
from .report import Report, some

BEST = {
    'CocoMetric': {'bbox_mAP': 1.0, 'segm_mAP': 1.0},
    'VOCMetric': {'mAP': 1.0},
    'IoUMetric': {'mIoU': 100.0, 'mDice': 100.0, 'mFscore': 100.0},
    'Accuracy': {'top1': 100.0},
}
"""Metrics that can be rehearsed, and what they are at best."""

LEAST = 0.9
"""Share of the best that is reached: tiny boxes are in annotation files, but not in data sets."""

MOST_BOXES = 100
"""Boxes of an image that COCO's metric counts."""


def build_evaluator(cfg: Config, phase: str) -> Evaluator:
    """Build the evaluator of a phase as mmengine's Runner does.

    Raises:
        UsageError: it cannot be built.
    """
    where = f'{phase}_evaluator'
    part = copy.deepcopy(cfg[where])
    try:
        if isinstance(part, dict) and 'metrics' in part:
            return EVALUATOR.build(dict(dict(type='Evaluator'), **part))
        return Evaluator(part)
    except UsageError:
        raise
    except Exception as error:  # whatever a metric raises
        raise UsageError(f'{where} cannot be built: {first_line(error)}') from error


def check_evaluator(
    cfg: Config, phase: str, evaluator: Evaluator, parts: Sequence[Part], report: Report
) -> None:
    """Make sure that perfect predictions get the best score, and that `save_best` is given.

    Args:
        cfg: config of the run.
        phase: 'val' or 'test'.
        evaluator: of the phase; left as it is.
        parts: data sets of the phase, with samples.
        report: the scores are added to it.

    Raises:
        UsageError: the score is another, or a metric fails.
    """
    if len(parts) != 1:
        return
    part, names, all_known = parts[0], [], True
    for index, metric in enumerate(evaluator.metrics):
        where = f'{phase}_evaluator' + (f'.{index}' if len(evaluator.metrics) > 1 else '')
        best = next((BEST[k.__name__] for k in type(metric).__mro__ if k.__name__ in BEST), None)
        samples = [sample for sample in part.samples if sample.packed is not None]
        if best is None or getattr(metric, 'format_only', False) or not samples:
            all_known = False
            continue
        scores = _scores(where, metric, part, samples)
        prefix = f'{metric.prefix}/' if metric.prefix else ''
        names += [prefix + name for name in scores]
        for name, score in scores.items():
            if name not in best:
                continue
            if score == -1 or np.isnan(score):
                continue  # nothing is annotated in these samples
            if not score >= LEAST * best[name]:
                raise UsageError(
                    f'{where} ({type(metric).__name__}) gives {prefix}{name} {score:.3f} where '
                    f'the annotations of {part.where} themselves are predicted, and it should '
                    f'be {best[name]:g}; see whether both read the same files (ann_file), and '
                    'whether the pipeline changes what is annotated'
                )
            report.add(f'{where} on the ground truth', f'{prefix}{name} {score:.3f}')
    wanted = ((cfg.get('default_hooks') or {}).get('checkpoint') or {}).get('save_best')
    for name in [wanted] if isinstance(wanted, str) else wanted or ():
        if phase == 'val' and all_known and name not in names and name != 'auto':
            raise UsageError(
                f'default_hooks.checkpoint.save_best is {name}, which {phase}_evaluator does not '
                f'give; it gives {some(names, 20)}: set one of them, or auto'
            )


def _scores(where: str, metric: Any, part: Part, samples: List[Sample]) -> Dict[str, float]:
    metric = fresh(metric, part)
    used = [perfect(part, sample) for sample in samples]
    used = [sample for sample in used if sample is not None]
    if not used:
        return {}
    if hasattr(metric, 'img_ids'):
        metric.img_ids = [sample.img_id for sample in used]
    try:
        metric.process({}, [sample.to_dict() for sample in used])
        return dict(metric.compute_metrics(metric.results))
    except Exception as error:  # whatever a metric raises
        raise UsageError(
            f'{where} ({type(metric).__name__}) fails on the annotations of {part.where} '
            f'({first_line(error)}); see whether it is meant for this data'
        ) from error


def fresh(metric: Any, part: Part) -> Any:
    """Copy a metric without results, and without the files that it would write."""
    metric = copy.copy(metric)
    metric.results, metric.dataset_meta = [], part.dataset.metainfo
    for name in ('outfile_prefix', 'output_dir'):
        if hasattr(metric, name):
            setattr(metric, name, None)
    return metric


def perfect(part: Part, sample: Sample) -> Optional[Any]:
    """A sample whose prediction equals its annotation; None where that cannot be scored."""
    truth = sample.packed.get('data_samples') if isinstance(sample.packed, dict) else None
    if truth is None:
        return None
    truth, info = truth.clone(), sample.info
    if 'instances' in info:
        instances = [i for i in info['instances'] if not i.get('ignore_flag')]
        if len(instances) > MOST_BOXES:
            return None
        boxes = np.array([i['bbox'] for i in instances], np.float32).reshape(-1, 4)
        truth.pred_instances = InstanceData(
            bboxes=torch.from_numpy(boxes),
            labels=torch.tensor([i['bbox_label'] for i in instances], dtype=torch.long),
            scores=torch.ones(len(instances)),
        )
        if all('mask' in i for i in instances):
            shape = (info['height'], info['width'])
            truth.pred_instances.masks = [_rle(i['mask'], *shape) for i in instances]
    elif 'gt_sem_seg' in truth:
        labels, shape = truth.gt_sem_seg.data, tuple(truth.ori_shape[:2])
        if tuple(labels.shape[-2:]) != shape:
            raise UsageError(
                f'label maps of {part.where} are {labels.shape[-1]} x {labels.shape[-2]} pixels '
                f'after its pipeline, and predictions {shape[1]} x {shape[0]} like the images; '
                'put LoadAnnotations after the step that resizes'
            )
        truth.pred_sem_seg = PixelData(data=labels.clone())
    elif 'gt_label' in truth:
        number = max(len(part.classes or ()), int(truth.gt_label.max()) + 1)
        scores = torch.zeros(number)
        scores[truth.gt_label.long()] = 1
        truth.pred_score, truth.pred_label = scores, truth.gt_label.clone()
    else:
        return None
    return truth


def _rle(mask: Any, height: int, width: int) -> Dict[str, Any]:
    from pycocotools import mask as masks

    if isinstance(mask, dict):
        return masks.frPyObjects(mask, height, width) if isinstance(mask['counts'], list) else mask
    return masks.merge(masks.frPyObjects(mask, height, width))
