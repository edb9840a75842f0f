"""How good label maps are, by class and by image; mmseg counts."""

from pathlib import Path
from typing import List, Optional, Sequence, Tuple

import cv2
import numpy as np
import torch
from mmengine.structures import BaseDataElement

from .scores import Shown, Table


class LabelMapScores:
    """IoU and accuracy per class, and mean IoU per image, of a semantic segmentor.

    mmseg's IoUMetric counts, as it does in training.

    Args:
        classes: names of the classes.
        ignore_index: label of pixels that do not count.
    """

    how = (
        "Mean IoU of the classes that occur in the image's label map or in its prediction, "
        "counted by mmseg's IoUMetric; pixels to be ignored do not count. An image with none but "
        'those has no score.'
    )

    def __init__(self, classes: Sequence[str], ignore_index: int) -> None:
        self.classes = classes
        self._ignore_index = ignore_index
        self._paths: List[str] = []
        self._areas: List[Tuple[torch.Tensor, ...]] = []  # of intersections, unions, found, there
        self._maps: List[Tuple[np.ndarray, np.ndarray]] = []  # as PNG: of thousands of images

    def add(self, sample: BaseDataElement) -> None:
        """Count an image, on the CPU."""
        from mmseg.evaluation import IoUMetric

        truth, found = (sample.get(name).data[0] for name in ('gt_sem_seg', 'pred_sem_seg'))
        self._paths.append(sample.img_path)
        self._areas.append(
            IoUMetric.intersect_and_union(
                found, truth.to(found), len(self.classes), self._ignore_index
            )
        )
        maps = (cv2.imencode('.png', part.numpy().astype(np.uint16))[1] for part in (truth, found))
        self._maps.append(tuple(maps))

    def table(self) -> Table:
        """IoU and accuracy of each class, in percent, and its share of the pixels."""
        from mmseg.evaluation import IoUMetric

        areas = [sum(column) for column in zip(*self._areas)]
        metrics = IoUMetric.total_area_to_metrics(*areas)
        share = (areas[3] / areas[3].sum()).numpy()
        columns = [100 * share, 100 * metrics['IoU'], 100 * metrics['Acc']]
        rows = [
            (name, [float(column[k]) for column in columns]) for k, name in enumerate(self.classes)
        ]
        return Table(['pixels (%)', 'IoU (%)', 'Acc (%)'], rows)

    def per_image(self) -> List[Optional[float]]:
        """Mean IoU of each image, see :attr:`how`."""
        scores = []
        for intersection, union, _, _ in self._areas:
            occurring = union > 0
            iou = intersection[occurring] / union[occurring]
            scores.append(float(iou.mean()) if len(iou) else None)
        return scores

    def shown(self, index: int) -> Shown:
        """What there is to draw of an image."""
        truth, found = (
            cv2.imdecode(part, cv2.IMREAD_UNCHANGED).astype(int) for part in self._maps[index]
        )
        return Shown(Path(self._paths[index]), truth, found)
