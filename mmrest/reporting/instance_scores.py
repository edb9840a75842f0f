"""How good detections and instance masks are, by class and by image; pycocotools counts."""

import contextlib
import io
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np
import torch
from mmengine.structures import BaseDataElement, InstanceData
from pycocotools import mask as coding
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from .scores import Shown, Table


class InstanceScores:
    """Average precision per class and F1 per image of a detector or an instance segmentor.

    What is in an image is taken from the data set, in pixels of the image file, so that every
    data set of mmdet will do. pycocotools matches and counts, of at most 100 detections an image.

    Args:
        classes: names of the classes.
        instances_of: gives the annotations of the image of a path as mmdet's data sets have them:
            a list of dicts with bbox (left, top, right, bottom), bbox_label, ignore_flag and
            maybe mask.
        score_thr: detections below it count neither for an image's score nor are they drawn; AP
            takes them all.
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
        self._with_masks = False
        self._images: List[Dict[str, Any]] = []
        self._truth: List[Dict[str, Any]] = []
        self._found: List[Dict[str, Any]] = []
        self._evaluated: Dict[str, Any] = {}

    @property
    def how(self) -> str:
        """How an image's score is computed, in a sentence."""
        what = 'masks' if self._with_masks else 'boxes'
        return (
            f'F1 of the {what} with a score of at least {self._score_thr:g}, each matched by '
            'pycocotools to an annotation of its class, averaged over the IoU thresholds 0.50, '
            '0.55 ... 0.95. An image with neither annotations nor such detections has no score.'
        )

    def add(self, sample: BaseDataElement) -> None:
        """Count an image, on the CPU."""
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
        found = sample.pred_instances
        self._with_masks |= 'masks' in found
        for number in range(len(found)):
            left, top, right, bottom = found.bboxes[number].tolist()
            entry = dict(
                image_id=image,
                category_id=int(found.labels[number]),
                bbox=[left, top, right - left, bottom - top],
                score=float(found.scores[number]),
            )
            if 'masks' in found:
                mask = np.asfortranarray(found.masks[number].numpy().astype(np.uint8))
                entry['segmentation'] = coding.encode(mask)
            self._found.append(entry)

    def table(self) -> Table:
        """AP and AP50 of each class, of boxes and, where there are any, masks."""
        kinds = {'bbox': 'box', 'segm': 'mask'} if self._with_masks else {'bbox': 'box'}
        counts = np.bincount(
            [entry['category_id'] for entry in self._truth if not entry['iscrowd']],
            minlength=len(self.classes),
        )
        columns, values = ['objects'], [counts.astype(float)]
        for kind, name in kinds.items():
            precision = self._evaluate(kind).eval['precision'][:, :, :, 0, 0]
            precision = np.where(precision < 0, np.nan, precision)  # -1: no such object
            columns += [f'{name} AP', f'{name} AP50']
            values += [precision.mean((0, 1)), precision[0].mean(0)]
        rows = [
            (name, [float(column[k]) for column in values]) for k, name in enumerate(self.classes)
        ]
        return Table(columns, rows)

    def per_image(self) -> List[Optional[float]]:
        """F1 of each image, see :attr:`how`."""
        evaluation = self._evaluate('segm' if self._with_masks else 'bbox')
        thresholds = len(evaluation.params.iouThrs)
        counts = np.zeros((len(self._images) + 1, 3, thresholds))  # hits, detections, objects
        areas = len(evaluation.params.areaRng)
        images = len(evaluation.params.imgIds)
        for index, entry in enumerate(evaluation.evalImgs):
            if entry is None or (index // images) % areas:  # of all sizes alone
                continue
            sure = np.array(entry['dtScores']) >= self._score_thr
            counted = sure & ~np.array(entry['dtIgnore'], bool).reshape(thresholds, -1)
            hits = counted & (np.array(entry['dtMatches']).reshape(thresholds, -1) > 0)
            objects = np.sum(np.array(entry['gtIgnore']) == 0)
            counts[entry['image_id']] += [hits.sum(1), counted.sum(1), [objects] * thresholds]
        return [
            float(np.mean(2 * hits / (found + objects))) if (found + objects).all() else None
            for hits, found, objects in counts[1:]
        ]

    def _evaluate(self, kind: str) -> Any:
        """pycocotools' evaluation of boxes ('bbox') or masks ('segm')."""
        if kind not in self._evaluated:
            with contextlib.redirect_stdout(io.StringIO()):
                truth, found = COCO(), COCO()
                categories = [dict(id=k, name=name) for k, name in enumerate(self.classes)]
                base = dict(images=self._images, categories=categories)
                truth.dataset = dict(base, annotations=self._truth)
                truth.createIndex()
                # loadRes refuses a set in which nothing was found at all.
                found.dataset = dict(base, annotations=self._detections(kind))
                found.createIndex()
                evaluation = COCOeval(truth, found, kind)
                evaluation.params.maxDets = [100]
                evaluation.evaluate()
                evaluation.accumulate()
            self._evaluated[kind] = evaluation
        return self._evaluated[kind]

    def _detections(self, kind: str) -> List[Dict[str, Any]]:
        return [
            dict(
                entry,
                id=number,
                iscrowd=0,
                area=float(coding.area(entry['segmentation']))
                if kind == 'segm'
                else entry['bbox'][2] * entry['bbox'][3],
            )
            for number, entry in enumerate(self._found, 1)
        ]

    def shown(self, index: int) -> Shown:
        """What there is to draw of an image."""
        image = self._images[index]
        of_image = [
            [entry for entry in entries if entry['image_id'] == image['id']]
            for entries in (self._truth, self._found)
        ]
        truth = _instances([e for e in of_image[0] if not e['iscrowd']], image)
        sure = [entry for entry in of_image[1] if entry['score'] >= self._score_thr]
        found = _instances(sure, image)
        found.scores = torch.tensor([entry['score'] for entry in sure])
        return Shown(Path(image['path']), truth, found)


def _instances(entries: List[Dict[str, Any]], image: Dict[str, Any]) -> InstanceData:
    """Instances of mmengine from those of COCO."""
    boxes = torch.tensor([entry['bbox'] for entry in entries]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    labels = torch.tensor([entry['category_id'] for entry in entries], dtype=torch.long)
    instances = InstanceData(bboxes=boxes, labels=labels)
    if entries and all('segmentation' in entry for entry in entries):
        size = image['height'], image['width']
        masks = []
        for outline in (entry['segmentation'] for entry in entries):
            if isinstance(outline, list):
                outline = coding.merge(coding.frPyObjects(outline, *size))
            elif isinstance(outline['counts'], list):
                outline = coding.frPyObjects(outline, *size)
            masks.append(torch.from_numpy(coding.decode(outline)).bool())
        instances.masks = torch.stack(masks)
    return instances
