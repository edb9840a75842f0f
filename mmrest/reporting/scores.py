"""Scores by class and image, and mmseg's scores of label maps."""

from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import cv2
import numpy as np
from mmengine.structures import BaseDataElement


class Shown(NamedTuple):
    """An image with its annotations and predictions.

    Attributes:
        path: image file.
        truth: instances (``bboxes`` in pixels of the file, ``labels``, optionally ``masks``), or a
            label map (H, W).
        found: the same, with ``scores`` of instances.
    """

    path: Path
    truth: Any
    found: Any


class LabelMapScores:
    """IoU and accuracy per class, and mean IoU per image, as counted by mmseg's IoUMetric.

    Args:
        classes: names of the classes.
        ignore_index: label of ignored pixels.
    """

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
        found = [(overlap / union)[union > 0] for overlap, union, _, _ in self._metric.results]
        return [float(iou.mean()) if len(iou) else None for iou in found]

    def shown(self, index: int) -> Shown:
        """Return an image with its annotations and predictions to draw."""
        truth, found = (cv2.imdecode(part, cv2.IMREAD_UNCHANGED) for part in self._maps[index])
        return Shown(Path(self._paths[index]), truth.astype(int), found.astype(int))
