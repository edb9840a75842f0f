"""Contact sheet of predictions and ground truth, and single images of a report."""

import math
from collections import Counter
from pathlib import Path
from typing import Any, Tuple

import cv2
import mmcv
import numpy as np
import torch
from mmengine.dataset import BaseDataset, pseudo_collate
from torch import nn

from ..datasets.palette import classes_and_colours
from .inputs import read_as
from .outputs import write_image
from .overlay import draw, draw_annotations, render, titled

CELL_WIDTH, GAP = 430, 8  # of the images of a sheet, and between them, in pixels
PANEL_WIDTH = 480  # of an image of a report, in pixels


def draw_predictions(model: nn.Module, dataset: BaseDataset, path: Path) -> None:
    """Draw up to four images of a test set next to their annotations and predictions."""
    rows = []
    classes, palette = classes_and_colours(dataset)
    model.eval()
    # From all parts of the set, because images of folders are sorted by class.
    for index in range(0, len(dataset), math.ceil(len(dataset) / 4)):
        data = dataset[index]
        truth = data['data_samples']
        with torch.no_grad():
            sample = model.test_step(pseudo_collate([data]))[0].cpu()
        image = read_as(sample.img_path, dataset)
        annotated = draw_annotations(image, truth, classes, palette)
        predicted = draw(image, sample, classes, palette, score_thr=0.5)
        row = [_scaled(cell, CELL_WIDTH) for cell in (image, annotated, predicted)]
        if not rows:
            row = list(map(titled, row, ('image', 'ground truth', 'prediction')))
        shape = max(map(len, row)) + GAP, CELL_WIDTH + GAP
        row = [mmcv.impad(cell, shape=shape, pad_val=(255, 255, 255)) for cell in row]
        rows.append(np.hstack(row))
    write_image(np.vstack(rows), path)


def draw_panel(path: str, content: Any, dataset: BaseDataset) -> Tuple[bytes, str]:
    """Draw an image of a dataset with its instances or label map (H, W), in pixels of the file.

    Returns:
        A JPEG, and a list of its classes as text.
    """
    classes, palette = classes_and_colours(dataset)
    image, inside = read_as(path, dataset), []
    if isinstance(content, np.ndarray):
        image = render(image, classes, palette, label_map=content)
        numbers = np.bincount(content[content < len(classes)].ravel())
        inside = [f'{classes[k]} {n / content.size:.0%}' for k, n in enumerate(numbers) if n]
    elif content is not None:
        image = render(image, classes, palette, content)
        counts = Counter(classes[label] for label in content.labels.tolist())
        inside = [f'{number} {name}' for name, number in counts.items()]
    jpeg = cv2.imencode('.jpg', _scaled(image, PANEL_WIDTH), [cv2.IMWRITE_JPEG_QUALITY, 88])[1]
    return jpeg.tobytes(), ', '.join(inside) or 'nothing'


def _scaled(image: np.ndarray, width: int) -> np.ndarray:
    height = max(1, round(width * image.shape[0] / image.shape[1]))
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
