"""Scores by class and image, and mmseg's scores of label maps."""

from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import cv2
import numpy as np
import torch
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
        self.classes = classes
        self._ignore_index = ignore_index
        self._paths: List[str] = []
        self._areas: List[Tuple[torch.Tensor, ...]] = []  # intersection, union, found, truth
        self._maps: List[List[np.ndarray]] = []  # truth and prediction, as PNG to save memory

    def add(self, sample: BaseDataElement) -> None:
        """Add an image, on the CPU."""
        from mmseg.evaluation import IoUMetric

        truth, found = (sample.get(name).data[0] for name in ('gt_sem_seg', 'pred_sem_seg'))
        self._paths.append(sample.img_path)
        self._areas.append(
            IoUMetric.intersect_and_union(
                found, truth.to(found), len(self.classes), self._ignore_index
            )
        )
        maps = (part.numpy().astype(np.uint16) for part in (truth, found))
        self._maps.append([cv2.imencode('.png', part)[1] for part in maps])

    def table(self) -> Dict[str, torch.Tensor]:
        """Return share of pixels, IoU and accuracy of each class, in percent."""
        from mmseg.evaluation import IoUMetric

        areas = [sum(column) for column in zip(*self._areas)]
        metrics = IoUMetric.total_area_to_metrics(*areas)
        return {
            'pixels (%)': 100 * (areas[3] / areas[3].sum()),
            'IoU (%)': 100 * metrics['IoU'],
            'Acc (%)': 100 * metrics['Acc'],
        }

    def per_image(self) -> List[Optional[float]]:
        """Return the mean IoU of each image, see :attr:`how`."""
        found = [(intersection / union)[union > 0] for intersection, union, _, _ in self._areas]
        return [float(iou.mean()) if len(iou) else None for iou in found]

    def shown(self, index: int) -> Shown:
        """Return an image with its annotations and predictions to draw."""
        truth, found = (cv2.imdecode(part, cv2.IMREAD_UNCHANGED) for part in self._maps[index])
        return Shown(Path(self._paths[index]), truth.astype(int), found.astype(int))
