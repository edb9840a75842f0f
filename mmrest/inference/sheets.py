"""Contact sheets of predictions and ground truth, and single images of a report."""

from collections import Counter
from pathlib import Path
from typing import Any, Iterator, List, Sequence, Tuple

import cv2
import numpy as np
import torch
from mmengine.dataset import BaseDataset, pseudo_collate
from mmengine.structures import BaseDataElement
from torch import nn

from ..datasets.palette import colours
from .inputs import read_as
from .outputs import write_image
from .overlay import draw, draw_annotations, padded, predicted_classes, render, titled

GAP = 8  # pixels between the images of a sheet
PANEL_WIDTH = 480  # of an image of a report, in pixels


def draw_predictions(model: nn.Module, dataset: BaseDataset, path: Path) -> None:
    """Draw the first images of a test set next to their annotations and a model's predictions."""
    rows = []
    classes = dataset.metainfo['classes']
    palette = colours(dataset.metainfo.get('palette'), len(classes))
    for truth, sample in _predicted(model, dataset, range(min(4, len(dataset)))):
        image = read_as(sample.img_path, dataset)
        annotated = draw_annotations(image, truth, classes, palette)
        predicted = draw(image, sample, classes, palette, score_thr=0.5)
        row = [_scaled(cell, 430) for cell in (image, annotated, predicted)]
        rows.append(
            row if rows else list(map(titled, row, ('image', 'ground truth', 'prediction')))
        )
    write_image(_sheet(rows), path)


def draw_classes(model: nn.Module, dataset: BaseDataset, path: Path) -> None:
    """Draw up to fifteen images of a test set with their predicted and true classes."""
    count = min(15, len(dataset))
    indices = [number * len(dataset) // count for number in range(count)]
    cells = []
    for _, sample in _predicted(model, dataset, indices):
        text, colour = predicted_classes(sample, dataset.metainfo['classes'])
        image = _scaled(read_as(sample.img_path, dataset), 260)
        cells.append(titled(image, text, colour))
    write_image(_sheet([cells[first : first + 5] for first in range(0, count, 5)]), path)


def draw_panel(path: Path, content: Any, dataset: BaseDataset) -> Tuple[bytes, str]:
    """Draw an image of a dataset with its instances or label map (H, W), in pixels of the file.

    Returns:
        A JPEG, and a list of its classes as text.
    """
    classes = dataset.metainfo['classes']
    palette = colours(dataset.metainfo.get('palette'), len(classes))
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


def _predicted(
    model: nn.Module, dataset: BaseDataset, indices: Sequence[int]
) -> Iterator[Tuple[BaseDataElement, BaseDataElement]]:
    """Yield annotated and predicted samples of a test set."""
    model.eval()
    for index in indices:
        data = dataset[index]
        with torch.no_grad():
            yield data['data_samples'], model.test_step(pseudo_collate([data]))[0].cpu()


def _scaled(image: np.ndarray, width: int) -> np.ndarray:
    height = max(1, round(width * image.shape[0] / image.shape[1]))
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _sheet(rows: List[List[np.ndarray]]) -> np.ndarray:
    """Arrange rows of images on white, BGR."""
    lines = []
    for row in rows:
        height = max(cell.shape[0] for cell in row) + GAP
        lines.append(np.hstack([padded(cell, height, cell.shape[1] + GAP) for cell in row]))
    width = max(line.shape[1] for line in lines)
    return np.vstack([padded(line, line.shape[0], width) for line in lines])
