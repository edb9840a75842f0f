"""Contact sheets of predictions beside the ground truth, and single images of a report."""

from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import cv2
import numpy as np
import torch
from mmengine.dataset import BaseDataset, pseudo_collate
from mmengine.structures import BaseDataElement
from PIL import Image, ImageDraw
from torch import nn

from ..engine.display import colours
from .outputs import write_picture
from .overlay import draw, font_of, render

GAP = 8
"""Pixels between the images of a sheet."""

RIGHT, WRONG = (27, 127, 59), (193, 39, 45)


def draw_predictions(
    model: nn.Module, dataset: BaseDataset, path: Path, count: int = 4, score_thr: float = 0.5
) -> None:
    """Draw images of a dataset beside their ground truth and a model's predictions.

    Args:
        model: a detector of mmdet or a segmentor of mmseg.
        dataset: its test set, with annotations.
        path: output file.
        count: the first N images are drawn.
        score_thr: detections below it are skipped.
    """
    rows = []
    classes = dataset.metainfo['classes']
    palette = colours(dataset.metainfo.get('palette'), len(classes))
    for data, sample in _predicted(model, dataset, range(min(count, len(dataset)))):
        image = cv2.imread(sample.img_path)
        truth = ground_truth(data['data_samples'], sample)
        cells = (
            image,
            render(image, classes, palette, *truth),
            draw(image, sample, classes, palette, score_thr),
        )
        titles = ('', '', '') if rows else ('image', 'ground truth', 'prediction')
        rows.append([_cell(cell, title, 430) for cell, title in zip(cells, titles)])
    write_picture(_sheet(rows), path)


def draw_classes(model: nn.Module, dataset: BaseDataset, path: Path) -> None:
    """Draw fifteen images of a dataset, each with its predicted class, and the right one.

    Args:
        model: a classifier of mmpretrain.
        dataset: its test set, with labels.
        path: output file.
    """
    count, cells = min(15, len(dataset)), []
    indices = [number * len(dataset) // count for number in range(count)]
    classes = dataset.metainfo['classes']
    for _, sample in _predicted(model, dataset, indices):
        found, truth = sample.pred_label.item(), sample.gt_label.item()
        text = f'{classes[found]} {sample.pred_score[found]:.2f}'
        if found != truth:
            text += f', is {classes[truth]}'
        colour = RIGHT if found == truth else WRONG
        cells.append(_cell(cv2.imread(sample.img_path), text, 260, colour))
    write_picture(_sheet([cells[first : first + 5] for first in range(0, count, 5)]), path)


def draw_panel(
    path: Path, content: Any, metainfo: Dict[str, Any], width: int = 480
) -> Tuple[bytes, str]:
    """Draw one image with its instances or label map.

    Args:
        path: image file.
        content: instances or a label map (H, W), in pixels of the file; None for the image only.
        metainfo: of the dataset.
        width: of the result, in pixels.

    Returns:
        A JPEG, and its content in words.
    """
    classes = metainfo['classes']
    palette = colours(metainfo.get('palette'), len(classes))
    image, inside = cv2.imread(str(path)), []
    if isinstance(content, np.ndarray):
        image = render(image, classes, palette, label_map=content)
        numbers = np.bincount(content[content < len(classes)].ravel())
        shares = {k: number / content.size for k, number in enumerate(numbers) if number}
        inside = [f'{classes[k]} {share:.0%}' for k, share in shares.items()]
    elif content is not None:
        image = render(image, classes, palette, content)
        counts = Counter(classes[label] for label in content.labels.tolist())
        inside = [f'{number} {name}' for name, number in counts.items()]
    jpeg = cv2.imencode('.jpg', _scaled(image, width), [cv2.IMWRITE_JPEG_QUALITY, 88])[1]
    return jpeg.tobytes(), ', '.join(inside) or 'nothing'


def ground_truth(annotated: BaseDataElement, sample: BaseDataElement) -> Tuple[Any, Any]:
    """Return instances and label map of an annotated sample, at the size of the image file.

    Args:
        annotated: data sample of the pipeline, at the size that the network sees.
        sample: prediction for the same image, with ``ori_shape`` and ``scale_factor``.
    """
    label_map = annotated.gt_sem_seg.data[0].numpy() if 'gt_sem_seg' in annotated else None
    if 'gt_instances' not in annotated:
        return None, label_map
    height, width = sample.ori_shape[:2]
    instances = annotated.gt_instances.clone()
    boxes = torch.as_tensor(getattr(instances.bboxes, 'tensor', instances.bboxes))
    instances.bboxes = boxes / boxes.new_tensor(sample.scale_factor).repeat(2)
    if 'masks' in instances:
        masks = instances.masks.resize((height, width)).to_ndarray()
        instances.masks = torch.from_numpy(masks.astype(bool))
    return instances, label_map


def _predicted(model: nn.Module, dataset: BaseDataset, indices: Sequence[int]) -> Any:
    model.eval()
    for index in indices:
        data = dataset[index]
        with torch.no_grad():
            yield data, model.test_step(pseudo_collate([data]))[0].cpu()


def _scaled(image: np.ndarray, width: int) -> np.ndarray:
    height = max(1, round(width * image.shape[0] / image.shape[1]))
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _cell(
    image: np.ndarray, title: str, width: int, colour: Tuple[int, ...] = (0, 0, 0)
) -> np.ndarray:
    """Return an image of a width, with its title."""
    image = _scaled(image, width)
    return titled(image, title, colour) if title else image


def titled(image: np.ndarray, title: str, colour: Tuple[int, ...] = (0, 0, 0)) -> np.ndarray:
    """Return an image (H, W, 3), BGR, with a line of text above it."""
    font, width = font_of(18), image.shape[1]
    head = Image.new('RGB', (width, sum(font.getmetrics()) + 4), 'white')
    ImageDraw.Draw(head).text((2, 1), title, colour, font)
    return np.concatenate([np.asarray(head)[..., ::-1], image])


def _sheet(rows: List[List[np.ndarray]]) -> np.ndarray:
    """Return rows of images on white, BGR."""
    strips = []
    for row in rows:
        height = max(cell.shape[0] for cell in row)
        strips.append(np.concatenate([_padded(cell, height) for cell in row], 1))
    width = max(strip.shape[1] for strip in strips)
    return np.concatenate([_padded(strip, strip.shape[0], width) for strip in strips])


def _padded(image: np.ndarray, height: int, width: int = 0) -> np.ndarray:
    down, right = height - image.shape[0], max(0, width - image.shape[1])
    edges = (0, down + GAP, 0, right + (0 if width else GAP))
    return cv2.copyMakeBorder(image, *edges, cv2.BORDER_CONSTANT, value=(255, 255, 255))
