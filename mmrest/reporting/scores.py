"""Scores by class and image: mmseg's of label maps, and of instances matched by pycocotools."""

import contextlib
import functools
import io
import tempfile
from typing import Any, Dict, List, Optional, Sequence, Tuple

import cv2
import numpy as np
import torch
from mmengine.structures import BaseDataElement, InstanceData

from ..inference.outputs import detections


class LabelMapScores:
    """IoU and accuracy per class, and mean IoU per image, as counted by mmseg's IoUMetric."""

    how = (
        "Mean IoU of the classes that occur in the image's label map or in its prediction, "
        "computed by mmseg's IoUMetric without ignored pixels. An image with only ignored pixels "
        'has no score.'
    )

    def __init__(self, classes: Sequence[str], ignore_index: int) -> None:
        from mmseg.evaluation import IoUMetric

        self.classes = classes
        self._metric = IoUMetric(ignore_index)
        self._metric.dataset_meta = dict(classes=classes)
        self._paths: List[str] = []
        self._maps: List[List[np.ndarray]] = []  # truth and prediction, as PNG to save memory

    def add(self, sample: BaseDataElement) -> None:
        """Add an image, on the CPU."""
        self._metric.process({}, [sample.to_dict()])
        self._paths.append(sample.img_path)
        maps = (sample.get(name).data[0].numpy() for name in ('gt_sem_seg', 'pred_sem_seg'))
        self._maps.append([cv2.imencode('.png', part.astype(np.uint16))[1] for part in maps])

    def table(self) -> Dict[str, Sequence[float]]:
        """Return share of pixels, IoU and accuracy of each class, in percent."""
        areas = [sum(column) for column in zip(*self._metric.results)]
        metrics = self._metric.total_area_to_metrics(*areas)
        return {
            'pixels (%)': 100 * (areas[3] / areas[3].sum()),
            'IoU (%)': 100 * metrics['IoU'],
            'Acc (%)': 100 * metrics['Acc'],
        }

    def per_image(self) -> List[Optional[float]]:
        """Return the mean IoU of each image, see :attr:`how`."""
        ious = [(overlap / union)[union > 0] for overlap, union, _, _ in self._metric.results]
        return [float(iou.mean()) if len(iou) else None for iou in ious]

    def shown(self, index: int) -> Tuple[str, np.ndarray, np.ndarray]:
        """Return an image file, and its label maps (H, W) of the truth and of the prediction."""
        truth, predicted = (cv2.imdecode(part, cv2.IMREAD_UNCHANGED) for part in self._maps[index])
        return self._paths[index], truth.astype(int), predicted.astype(int)


class InstanceScores:
    """Average precision per class and F1 per image of a detector or an instance segmentor.

    Annotations come from the dataset, in pixels of the image file, so that every dataset of mmdet
    is supported: `instances` maps the path of an image to dicts with bbox (left, top, right,
    bottom), bbox_label, ignore_flag and optionally mask. At most 100 detections per image are
    matched. Those below `score_thr` are ignored in its score and not drawn; AP uses all.
    """

    def __init__(
        self, classes: Sequence[str], instances: Dict[str, List[dict]], score_thr: float
    ) -> None:
        self.classes = classes
        self._instances = instances
        self._score_thr = score_thr
        self._kinds = {'bbox': 'box'}
        self._paths: List[str] = []
        self._truth: List[dict] = []  # per image, in the format of CocoMetric
        self._predictions: List[dict] = []

    @property
    def how(self) -> str:
        return (
            f'F1 of the {"masks" if "segm" in self._kinds else "boxes"} with a score of at least '
            f'{self._score_thr:g}, each matched by pycocotools to an annotation of its class, '
            'averaged over the IoU thresholds 0.50, 0.55 ... 0.95. An image with neither '
            'annotations nor such detections has no score.'
        )

    def add(self, sample: BaseDataElement) -> None:
        """Add an image, on the CPU."""
        image, (height, width) = len(self._paths), sample.ori_shape[:2]
        every_class = range(len(self.classes))
        self._paths.append(sample.img_path)
        annotations = [
            dict(entry, bbox_label=label)
            for entry in self._instances[sample.img_path]
            # CrowdHuman's regions to ignore have the label -1.
            for label in ([entry['bbox_label']] if entry['bbox_label'] >= 0 else every_class)
        ]
        self._truth.append(dict(img_id=image, height=height, width=width, anns=annotations))
        if 'masks' in sample.pred_instances and any(entry.get('mask') for entry in annotations):
            self._kinds['segm'] = 'mask'
        for entry in detections(sample.pred_instances, every_class):
            self._predictions.append(dict(entry, id=len(self._predictions) + 1, image_id=image))

    def table(self) -> Dict[str, Sequence[float]]:
        """Return AP and AP50 of each class, of boxes and, if predicted and annotated, masks."""
        truth = self._evaluations['bbox'].cocoGt.anns.values()
        labels = [entry['category_id'] for entry in truth if not entry['iscrowd']]
        columns = {'objects': np.bincount(labels, minlength=len(self.classes))}
        for kind, name in self._kinds.items():
            precision = self._evaluations[kind].eval['precision'][:, :, :, 0, 0]
            precision = np.where(precision < 0, np.nan, precision)  # -1: no such object
            columns[f'{name} AP'] = precision.mean((0, 1))
            columns[f'{name} AP50'] = precision[0].mean(0)
        return columns

    def per_image(self) -> List[Optional[float]]:
        """Return the F1 of each image, see :attr:`how`."""
        *_, evaluation = self._evaluations.values()  # masks, or else boxes
        thresholds = len(evaluation.params.iouThrs)
        counts = np.zeros((len(self._paths), 2, thresholds))  # hits; detections and objects
        for entry in filter(None, evaluation.evalImgs):
            confident = np.array(entry['dtScores']) >= self._score_thr
            counted = confident & ~np.array(entry['dtIgnore'], bool).reshape(thresholds, -1)
            hits = counted & (np.array(entry['dtMatches']).reshape(thresholds, -1) > 0)
            objects = np.sum(np.array(entry['gtIgnore']) == 0)
            counts[entry['image_id']] += [hits.sum(1), counted.sum(1) + objects]
        return [float(np.mean(2 * hits / n)) if n.all() else None for hits, n in counts]

    @functools.cached_property
    def _evaluations(self) -> Dict[str, Any]:
        """pycocotools' evaluations of boxes ('bbox') and, if predicted, masks ('segm')."""
        from mmdet.evaluation import CocoMetric
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        metric, predictions, evaluations = CocoMetric(), COCO(), {}
        metric.dataset_meta = dict(classes=self.classes)
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(metric.gt_to_coco_json(self._truth, f'{folder}/all'))
            # loadRes fails without any detection.
            predictions.dataset = dict(truth.dataset, annotations=self._predictions)
            predictions.createIndex()
            for kind in self._kinds:
                evaluation = evaluations[kind] = COCOeval(truth, predictions, kind)
                evaluation.params.maxDets = [100]
                evaluation.params.areaRng = evaluation.params.areaRng[:1]  # all sizes
                evaluation.evaluate()
                evaluation.accumulate()
        return evaluations

    def shown(self, index: int) -> Tuple[str, InstanceData, InstanceData]:
        """Return an image file, and its annotations and predictions, in pixels of the file.

        They have ``bboxes``, ``labels`` and, if available, ``masks`` and ``scores``.
        """
        evaluation = self._evaluations['bbox']
        truth, predictions = evaluation.cocoGt, evaluation.cocoDt
        annotated = [entry for entry in truth.imgToAnns[index] if not entry['iscrowd']]
        shown = [e for e in predictions.imgToAnns[index] if e['score'] >= self._score_thr]
        instances = _instances(shown, predictions)
        instances.scores = torch.tensor([entry['score'] for entry in shown])
        return self._paths[index], _instances(annotated, truth), instances


def _instances(entries: List[Dict[str, Any]], coco: Any) -> InstanceData:
    """Convert COCO's instances to mmengine's."""
    boxes = torch.tensor([entry['bbox'] for entry in entries]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    labels = torch.tensor([entry['category_id'] for entry in entries], dtype=torch.long)
    instances = InstanceData(bboxes=boxes, labels=labels)
    if entries and all('segmentation' in entry for entry in entries):
        masks = np.stack([coco.annToMask(entry) for entry in entries])
        instances.masks = torch.from_numpy(masks).bool()
    return instances
