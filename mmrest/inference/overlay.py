"""The renderer: boxes, masks and label maps, predicted or annotated, drawn over an image."""

import functools
from pathlib import Path
from typing import Any, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import cv2
import matplotlib
import numpy as np
from mmengine.structures import BaseDataElement
from PIL import Image, ImageDraw, ImageFont

from ..engine.display import RGB

Box = Tuple[float, float, float, float]
"""Left, top, right, bottom in pixels; rows count downwards."""

LEAST_SIDE = 640
"""Pixels of the longer side to which smaller images are enlarged, approximately."""

OPACITY = 0.55
"""Of masks and label maps."""


class _Label(NamedTuple):
    text: str
    box: Box
    colour: RGB
    reach: float


def draw(
    image: np.ndarray,
    sample: BaseDataElement,
    classes: Sequence[str],
    palette: Sequence[RGB],
    score_thr: float = 0.3,
) -> np.ndarray:
    """Draw the predictions for an image.

    Args:
        image: (H, W, 3) uint8, BGR.
        sample: data sample with ``pred_instances`` or ``pred_sem_seg`` at the size of the image.
        classes: name of every class.
        palette: colour of every class, see :func:`mmrest.engine.display.colours`.
        score_thr: detections below it are skipped.

    Returns:
        As :func:`render`.
    """
    instances = label_map = None
    if 'pred_sem_seg' in sample:
        label_map = sample.pred_sem_seg.data[0].numpy()
    if 'pred_instances' in sample:
        instances = sample.pred_instances
        instances = instances[instances.scores >= score_thr]
    return render(image, classes, palette, instances, label_map)


def render(
    image: np.ndarray,
    classes: Sequence[str],
    palette: Sequence[RGB],
    instances: Optional[Any] = None,
    label_map: Optional[np.ndarray] = None,
) -> np.ndarray:
    """Draw instances and a label map over an image.

    No label covers another one: those of the highest scores and of the largest regions come first,
    and one without room beside its box or region is dropped. Overlapping instances of a class have
    different shades of its colour.

    Args:
        image: (H, W, 3) uint8, BGR.
        classes: name of every class.
        palette: colour of every class.
        instances: ``bboxes`` (N, 4), ``labels`` (N,) and, if available, ``scores`` (N,) and
            ``masks`` (N, H, W), as tensors.
        label_map: (H, W); values that are no class are not drawn.

    Returns:
        (kH, kW, 3) uint8, BGR, where k is 1 except for images smaller than :data:`LEAST_SIDE`:
        these are enlarged so that labels can be read.
    """
    factor = max(1, round(LEAST_SIDE / max(image.shape[:2])))
    size = (factor * image.shape[1], factor * image.shape[0])
    canvas = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC) if factor > 1 else image
    canvas = cv2.cvtColor(canvas, cv2.COLOR_BGR2RGB)
    font = font_of(max(12, min(size) // 40))
    labels: List[_Label] = []
    if label_map is not None:
        label_map = cv2.resize(label_map.astype(np.int32), size, interpolation=cv2.INTER_NEAREST)
        canvas = _blend(canvas, label_map, palette)
        labels += _of_regions(label_map, classes, palette, font.size)
    if instances is not None:
        if 'scores' in instances:
            instances = instances[instances.scores.argsort()]  # the highest score is on top
        labels += _draw_instances(canvas, instances, factor, classes, palette)[::-1]
    return cv2.cvtColor(_written(canvas, labels, font), cv2.COLOR_RGB2BGR)


@functools.lru_cache
def font_of(size: int) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which matplotlib ships, at a size in pixels."""
    return ImageFont.truetype(
        str(Path(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf')), size
    )


def _blend(canvas: np.ndarray, label_map: np.ndarray, palette: Sequence[RGB]) -> np.ndarray:
    """Blend the colours of classes with the image in grey, whose own colours would mix in."""
    grey = cv2.cvtColor(cv2.cvtColor(canvas, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    table = np.array(palette, np.uint8)
    is_class = (label_map >= 0) & (label_map < len(palette))
    tints = cv2.addWeighted(grey, 1 - OPACITY, table[np.where(is_class, label_map, 0)], OPACITY, 0)
    return np.where(is_class[..., None], tints, grey)


def _of_regions(
    label_map: np.ndarray, classes: Sequence[str], palette: Sequence[RGB], line: int
) -> List[_Label]:
    """A label for the largest region of every class, where it is widest; large ones first."""
    found = []
    for index in range(len(classes)):
        _, regions, stats, _ = cv2.connectedComponentsWithStats(
            (label_map == index).astype(np.uint8), connectivity=4
        )
        if len(stats) < 2:  # only what is not of the class
            continue
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
    """Draw masks and boxes onto `canvas`, later ones over earlier, and return their labels."""
    found = _shades(instances, palette)
    if 'masks' in instances:
        _draw_masks(canvas, instances.masks.numpy().astype(np.uint8), factor, found)
    width = max(1, round(min(canvas.shape[:2]) / 300))
    labels = []
    names = [classes[label] for label in instances.labels.tolist()]
    if 'scores' in instances:
        names = [f'{name} {score:.2f}' for name, score in zip(names, instances.scores.tolist())]
    for box, text, colour in zip((instances.bboxes * factor).tolist(), names, found):
        left, top, right, bottom = (round(edge) for edge in box)
        cv2.rectangle(canvas, (left, top), (right, bottom), colour, width)
        labels.append(_Label(text, tuple(box), colour, reach=max(box[3] - box[1], 40)))
    return labels


def _shades(instances: Any, palette: Sequence[RGB]) -> List[RGB]:
    """Return the colours of instances, lighter for each overlapping one of the same class."""
    boxes, labels = instances.bboxes.tolist(), instances.labels.tolist()
    found: List[RGB] = []
    steps: List[int] = []
    for number, (box, label) in enumerate(zip(boxes, labels)):
        taken = {
            steps[other]
            for other in range(number)
            if labels[other] == label and overlap(box, boxes[other])
        }
        step = next(step for step in range(len(taken) + 1) if step not in taken)
        steps.append(step)
        share = min(step, 3) / 6
        found.append(tuple(round(c + share * (255 - c)) for c in palette[label]))
    return found


def _draw_masks(canvas: np.ndarray, masks: np.ndarray, factor: int, found: Sequence[RGB]) -> None:
    """Tint pixels in the colour of the last mask that covers them, and draw outlines."""
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
    """Return the canvas with the labels that have a place."""
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
    """Yield labels with their places in an image of a size (width, height), in whole pixels."""
    height = sum(font.getmetrics()) + 2
    height += height % 2  # places lie half a height apart
    taken: List[Box] = []
    for label in labels:
        width = round(font.getlength(label.text)) + 4
        box = tuple(round(edge) for edge in label.box)
        if box[0] == box[2]:  # a point: the label is centred on it
            x, y = box[:2]
            box = (x - width // 2, y + height // 2, x, y + height // 2)
        place = free_place(box, (width, height), (0, 0, *size), taken, label.reach)
        if place is not None:
            taken.append(place)
            yield label, place


def free_place(
    box: Box,
    size: Tuple[float, float],
    picture: Box,
    taken: Sequence[Box],
    reach: float = np.inf,
) -> Optional[Box]:
    """Return a place for the label of a box, inside the image, that covers no other label.

    Above the box is the first choice, then inside at its top, below it, inside at its bottom, or
    else as near to its top as there is room.

    Args:
        box: what the label names.
        size: width and height of the label in pixels.
        picture: the image.
        taken: places of the labels so far.
        reach: maximum distance in pixels from the top of the box.

    Returns:
        The place, or None if there is none.
    """
    left, top, _, bottom = box
    width, height = size
    x = max(picture[0], min(left, picture[2] - width))
    rows = np.arange(picture[1], picture[3] - height, height / 2)
    near = sorted(rows[np.abs(rows - top) <= reach].tolist(), key=lambda row: abs(row - top))
    for y in (top - height, top, bottom, bottom - height, *near):
        place = (x, y, x + width, y + height)
        inside = picture[1] <= y and y + height <= picture[3]
        if inside and not any(overlap(place, other) for other in taken):
            return place
    return None


def overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    """Return True if two boxes share more than an edge."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
