"""A network's predictions drawn over an image, pixel by pixel: boxes, masks and label maps."""

import colorsys
import functools
from pathlib import Path
from typing import Any, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import cv2
import matplotlib
import numpy as np
from mmengine.structures import BaseDataElement
from PIL import Image, ImageDraw, ImageFont

from .labels import Box, free_place

RGB = Tuple[int, ...]

LEAST_SIDE = 640
"""Pixels of the longer side of a picture that smaller images are enlarged to, or nearly."""

OPACITY = 0.55
"""Of masks and label maps."""


class _Label(NamedTuple):
    text: str
    box: Box
    colour: RGB
    reach: float


def colours(palette: Optional[Sequence[Sequence[int]]], count: int) -> List[RGB]:
    """As many colours as there are classes, as (red, green, blue) of 0 to 255.

    Args:
        palette: those of the data set; None or too few where it says nothing of some classes.
        count: of the classes.
    """
    known = [tuple(map(int, colour)) for colour in palette or ()][:count]
    return known + [_distinct(index) for index in range(len(known), count)]


def _distinct(index: int) -> RGB:
    """Hues in steps of the golden ratio, so that those of neighbours lie far apart."""
    red, green, blue = colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.75, 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw(
    image: np.ndarray,
    sample: BaseDataElement,
    classes: Sequence[str],
    palette: Sequence[RGB],
    score_thr: float = 0.3,
) -> np.ndarray:
    """Draw what was predicted for an image.

    No label covers another one: those of the surest detections and of the largest regions come
    first, and one that finds no room beside its box or region is left out.

    Args:
        image: (H, W, 3) uint8, BGR.
        sample: data sample with ``pred_instances`` or ``pred_sem_seg`` at the size of the image.
        classes: name of every class.
        palette: colour of every class, as :func:`colours` gives them.
        score_thr: detections below it are left out.

    Returns:
        (kH, kW, 3) uint8, BGR, where k is 1 but for images that are smaller than
        :data:`LEAST_SIDE`: these are enlarged so that labels can be read.
    """
    factor = max(1, round(LEAST_SIDE / max(image.shape[:2])))
    size = (factor * image.shape[1], factor * image.shape[0])
    canvas = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC) if factor > 1 else image
    canvas = cv2.cvtColor(canvas, cv2.COLOR_BGR2RGB)
    font = _font(max(12, min(size) // 40))
    labels: List[_Label] = []
    if 'pred_sem_seg' in sample:
        label_map = sample.pred_sem_seg.data[0].numpy().astype(np.int32)
        label_map = cv2.resize(label_map, size, interpolation=cv2.INTER_NEAREST)
        canvas = _blend(canvas, label_map, palette)
        labels += _of_regions(label_map, classes, palette, font.size)
    if 'pred_instances' in sample:
        found = sample.pred_instances
        found = found[found.scores >= score_thr]
        found = found[found.scores.argsort()]  # the surest lies on top
        labels += _draw_instances(canvas, found, factor, classes, palette)[::-1]
    return cv2.cvtColor(_written(canvas, labels, font), cv2.COLOR_RGB2BGR)


@functools.lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(
        str(Path(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf')), size
    )


def _blend(canvas: np.ndarray, label_map: np.ndarray, palette: Sequence[RGB]) -> np.ndarray:
    """Colours of classes over the image in grey, because its own would mix with them."""
    grey = cv2.cvtColor(cv2.cvtColor(canvas, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    table = np.array(palette, np.uint8)
    return cv2.addWeighted(grey, 1 - OPACITY, table[label_map], OPACITY, 0)


def _of_regions(
    label_map: np.ndarray, classes: Sequence[str], palette: Sequence[RGB], line: int
) -> List[_Label]:
    """A label for the largest region of every class, where it is widest; large ones first."""
    found = []
    for index in np.unique(label_map).tolist():
        _, regions, stats, _ = cv2.connectedComponentsWithStats(
            (label_map == index).astype(np.uint8), connectivity=4
        )
        region = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
        area = int(stats[region, cv2.CC_STAT_AREA])
        if area < line**2:  # a label would hide it
            continue
        inside = np.pad((regions == region).astype(np.uint8), 1)  # the border of the image counts
        distance = cv2.distanceTransform(inside, cv2.DIST_L2, 3)[1:-1, 1:-1]
        y, x = np.unravel_index(distance.argmax(), distance.shape)
        box = (float(x), float(y), float(x), float(y))
        label = _Label(classes[index], box, palette[index], reach=3 * line)
        found.append((area, label))
    return [label for _, label in sorted(found, key=lambda pair: -pair[0])]


def _draw_instances(
    canvas: np.ndarray,
    instances: Any,
    factor: int,
    classes: Sequence[str],
    palette: Sequence[RGB],
) -> List[_Label]:
    """Draw masks and boxes onto `canvas`, later ones over earlier; returns their labels."""
    found = [palette[label] for label in instances.labels.tolist()]
    if 'masks' in instances:
        _draw_masks(canvas, instances.masks.numpy().astype(np.uint8), factor, found)
    width = max(1, round(min(canvas.shape[:2]) / 300))
    labels = []
    for box, label, score, colour in zip(
        (instances.bboxes * factor).tolist(),
        instances.labels.tolist(),
        instances.scores.tolist(),
        found,
    ):
        left, top, right, bottom = (round(edge) for edge in box)
        cv2.rectangle(canvas, (left, top), (right, bottom), colour, width)
        text = f'{classes[label]} {score:.2f}'
        labels.append(_Label(text, tuple(box), colour, reach=max(box[3] - box[1], 40)))
    return labels


def _draw_masks(canvas: np.ndarray, masks: np.ndarray, factor: int, found: Sequence[RGB]) -> None:
    """Tint pixels in the colour of the last mask that holds them, and draw outlines."""
    tints = canvas.copy()
    outlines = []
    for mask, colour in zip(masks, found):
        left, top, width, height = (factor * edge for edge in cv2.boundingRect(mask))
        if not width:
            continue
        part = mask[top // factor :, left // factor :][: height // factor, : width // factor]
        part = cv2.resize(part, (width, height), interpolation=cv2.INTER_NEAREST)
        tints[top : top + height, left : left + width][part > 0] = colour
        contours, _ = cv2.findContours(part, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        outlines.append((contours, colour, (left, top)))
    cv2.addWeighted(canvas, 1 - OPACITY, tints, OPACITY, 0, dst=canvas)
    for contours, colour, offset in outlines:
        cv2.drawContours(canvas, contours, -1, colour, 1, offset=offset)


def _written(
    canvas: np.ndarray, labels: Sequence[_Label], font: ImageFont.FreeTypeFont
) -> np.ndarray:
    """The canvas with the labels that find a place."""
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    for label, place in _places(labels, font, picture.size):
        pen.rectangle((place[0], place[1], place[2] - 1, place[3] - 1), fill=label.colour)
        red, green, blue = label.colour
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 140
        pen.text((place[0] + 2, place[1] + 1), label.text, 'white' if dark else 'black', font)
    return np.asarray(picture)


def _places(
    labels: Sequence[_Label], font: ImageFont.FreeTypeFont, size: Tuple[int, int]
) -> Iterator[Tuple[_Label, Box]]:
    """Labels with their places in a picture of a size (width, height), in whole pixels."""
    height = sum(font.getmetrics()) + 2
    height += height % 2  # places lie half a height apart
    taken: List[Box] = []
    for label in labels:
        width = round(font.getlength(label.text)) + 4
        box = tuple(round(edge) for edge in label.box)
        if box[0] == box[2]:  # a point: the label's middle comes to lie on it
            x, y = box[:2]
            box = (x - width // 2, y + height // 2, x, y + height // 2)
        place = free_place(box, (width, height), (0, 0, *size), taken, label.reach)
        if place is not None:
            taken.append(place)
            yield label, place
