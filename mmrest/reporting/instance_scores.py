"""Scores of detections and instance masks, by class and image, matched by pycocotools."""

import contextlib
import io
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np
import torch
from mmengine.structures import BaseDataElement, InstanceData
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..inference.outputs import detections
from .scores import Shown, Table


class InstanceScores:
    """Average precision per class and F1 per image of a detector or an instance segmentor.

    Annotations come from the dataset, in pixels of the image file, so that every dataset of mmdet
    is supported. At most 100 detections per image are matched.

    Args:
        classes: names of the classes.
        instances_of: path of an image -> its annotations in mmdet's format: dicts with bbox
            (left, top, right, bottom), bbox_label, ignore_flag and optionally mask.
        score_thr: detections below it are ignored in an image's score and not drawn; AP uses all.
    """

    def __init__(
        self,
        classes: Sequence[str],
        instances_of: Callable[[str], List[Dict[str, Any]]],
        score_thr: float,
    ) -> None:
        self.classes = classes
        self._instances_of = instances_of
        self._score_thr = score_thr
        self._kinds = {'bbox': 'box'}
        self._images: List[Dict[str, Any]] = []
        self._truth: List[Dict[str, Any]] = []
        self._found: List[Dict[str, Any]] = []
        self._evaluated: Dict[str, COCOeval] = {}

    @property
    def how(self) -> str:
        """Description of the score of an image."""
        return (
            f'F1 of the {"masks" if "segm" in self._kinds else "boxes"} with a score of at least '
            f'{self._score_thr:g}, each matched by pycocotools to an annotation of its class, '
            'averaged over the IoU thresholds 0.50, 0.55 ... 0.95. An image without annotations '
            'and such detections has no score.'
        )

    def add(self, sample: BaseDataElement) -> None:
        """Add an image, on the CPU."""
        height, width = (int(side) for side in sample.ori_shape[:2])
        image = len(self._images) + 1
        self._images.append(dict(id=image, path=sample.img_path, height=height, width=width))
        for instance in self._instances_of(sample.img_path):
            left, top, right, bottom = map(float, instance['bbox'])
            entry = dict(
                id=len(self._truth) + 1,
                image_id=image,
                category_id=int(instance['bbox_label']),
                bbox=[left, top, right - left, bottom - top],
                area=(right - left) * (bottom - top),
                iscrowd=int(bool(instance.get('ignore_flag'))),
            )
            if instance.get('mask'):
                entry['segmentation'] = instance['mask']
            self._truth.append(entry)
        if 'masks' in sample.pred_instances:
            self._kinds['segm'] = 'mask'
        for entry in detections(sample.pred_instances, range(len(self.classes))):
            self._found.append(dict(entry, id=len(self._found) + 1, image_id=image))

    def table(self) -> Table:
        """Return AP and AP50 of each class, of boxes and, if predicted, masks."""
        labels = [entry['category_id'] for entry in self._truth if not entry['iscrowd']]
        columns = {'objects': np.bincount(labels, minlength=len(self.classes)).astype(float)}
        for kind, name in self._kinds.items():
            precision = self._evaluate(kind).eval['precision'][:, :, :, 0, 0]
            precision = np.where(precision < 0, np.nan, precision)  # -1: no such object
            columns[f'{name} AP'] = precision.mean((0, 1))
            columns[f'{name} AP50'] = precision[0].mean(0)
        return Table.of(self.classes, columns)

    def per_image(self) -> List[Optional[float]]:
        """Return the F1 of each image, see :attr:`how`."""
        evaluation = self._evaluate(list(self._kinds)[-1])
        thresholds = len(evaluation.params.iouThrs)
        counts = np.zeros((len(self._images) + 1, 3, thresholds))  # hits, detections, objects
        for entry in filter(None, evaluation.evalImgs):
            confident = np.array(entry['dtScores']) >= self._score_thr
            counted = confident & ~np.array(entry['dtIgnore'], bool).reshape(thresholds, -1)
            hits = counted & (np.array(entry['dtMatches']).reshape(thresholds, -1) > 0)
            objects = np.sum(np.array(entry['gtIgnore']) == 0)
            counts[entry['image_id']] += [hits.sum(1), counted.sum(1), [objects] * thresholds]
        return [
            float(np.mean(2 * hits / (found + objects))) if (found + objects).all() else None
            for hits, found, objects in counts[1:]
        ]

    def _evaluate(self, kind: str) -> COCOeval:
        """Return pycocotools' evaluation of boxes ('bbox') or masks ('segm')."""
        if kind not in self._evaluated:
            with contextlib.redirect_stdout(io.StringIO()):
                # loadRes fails without any detection.
                evaluation = COCOeval(self._coco(self._truth), self._coco(self._found), kind)
                evaluation.params.maxDets = [100]
                evaluation.params.areaRng = evaluation.params.areaRng[:1]  # all sizes
                evaluation.evaluate()
                evaluation.accumulate()
            self._evaluated[kind] = evaluation
        return self._evaluated[kind]

    def _coco(self, annotations: List[Dict[str, Any]]) -> COCO:
        coco = COCO()
        categories = [dict(id=k, name=name) for k, name in enumerate(self.classes)]
        coco.dataset = dict(images=self._images, categories=categories, annotations=annotations)
        coco.createIndex()
        return coco

    def shown(self, index: int) -> Shown:
        """Return an image with its annotations and predictions to draw."""
        evaluation = self._evaluate('bbox')
        truth = [e for e in evaluation.cocoGt.imgToAnns[index + 1] if not e['iscrowd']]
        found = evaluation.cocoDt.imgToAnns[index + 1]
        found = [entry for entry in found if entry['score'] >= self._score_thr]
        instances = _instances(found, evaluation.cocoDt)
        instances.scores = torch.tensor([entry['score'] for entry in found])
        path = Path(self._images[index]['path'])
        return Shown(path, _instances(truth, evaluation.cocoGt), instances)


def _instances(entries: List[Dict[str, Any]], coco: COCO) -> InstanceData:
    """Convert COCO's instances to mmengine's."""
    boxes = torch.tensor([entry['bbox'] for entry in entries]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    labels = torch.tensor([entry['category_id'] for entry in entries], dtype=torch.long)
    instances = InstanceData(bboxes=boxes, labels=labels)
    if entries and all('segmentation' in entry for entry in entries):
        masks = np.stack([coco.annToMask(entry) for entry in entries])
        instances.masks = torch.from_numpy(masks).bool()
    return instances
