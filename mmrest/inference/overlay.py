"""Renderer of predictions and annotations: boxes, masks, label maps and classes."""

import functools
import math
from typing import Any, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import cv2
import matplotlib
import mmcv
import numpy as np
import torch
from mmengine.structures import BaseDataElement
from PIL import Image, ImageDraw, ImageFont

from ..datasets.palette import RGB

Box = Tuple[float, float, float, float]
"""Left, top, right, bottom in pixels; rows count downwards."""

LEAST_SIDE = 640
"""Approximate longer side, in pixels, to which smaller images are enlarged."""

OPACITY = 0.55
"""Opacity of masks and label maps."""

BLACK, RIGHT, WRONG = (0, 0, 0), (27, 127, 59), (193, 39, 45)
"""Title colours: no ground truth, right classes, wrong classes."""

DRAWN = {'pred_label', 'pred_instances', 'pred_sem_seg'}
"""Predictions that can be drawn."""


class _Label(NamedTuple):
    text: str
    box: Box
    colour: RGB
    reach: float


def drawable(image: np.ndarray) -> np.ndarray:
    """Return an image of any number of channels and any dtype as (H, W, 3) uint8, BGR.

    These are the first three channels, or the first one in grey. Floats of 0 to 1 are scaled by
    255, and values outside 0 to 255 by the range of the image.
    """
    image = image.reshape(*image.shape[:2], -1)
    image = image[..., :3] if image.shape[2] > 2 else image[..., :1].repeat(3, axis=2)
    lowest, highest = image.min(), image.max()
    if np.issubdtype(image.dtype, np.floating) and 0 <= lowest and highest <= 1:
        image = image * 255
    elif image.dtype != np.uint8 and (lowest < 0 or highest > 255):
        image = cv2.normalize(image.astype(np.float32), None, 0, 255, cv2.NORM_MINMAX)
    return np.ascontiguousarray(image.astype(np.uint8, copy=False))


def draw(
    image: np.ndarray,
    sample: BaseDataElement,
    classes: Sequence[str],
    palette: Sequence[RGB],
    score_thr: float = 0.3,
) -> np.ndarray:
    """Draw predictions on an image.

    Args:
        image: (H, W, 3) uint8, BGR.
        sample: data sample on the CPU, from a classifier, or from a detector or segmentor at the
            size of the image.
        classes: name of each class.
        palette: colour of each class; see :func:`mmrest.datasets.palette.colours`.
        score_thr: detections with lower scores are skipped.

    Returns:
        See :func:`render`. A classifier's prediction is a line of text above the image.
    """
    if 'pred_label' in sample:
        return titled(enlarged(image), *_predicted_classes(sample, classes))
    instances = sample.get('pred_instances')
    if instances is not None:
        instances = instances[instances.scores >= score_thr]
    return render(image, classes, palette, instances, _label_map(sample, 'pred_sem_seg'))


def draw_annotations(
    image: np.ndarray, sample: BaseDataElement, classes: Sequence[str], palette: Sequence[RGB]
) -> np.ndarray:
    """Draw a data sample's ground truth on an image of the same size; see :func:`draw`."""
    if 'gt_label' in sample:
        names = ', '.join(classes[label] for label in sample.gt_label.tolist())
        return titled(enlarged(image), names)
    instances = None
    if 'bboxes' in sample.get('gt_instances', ()):  # mmdet packs empty ones without annotations
        instances = sample.gt_instances.clone()
        instances.bboxes = torch.as_tensor(getattr(instances.bboxes, 'tensor', instances.bboxes))
        if 'masks' in instances:
            instances.masks = torch.from_numpy(instances.masks.to_ndarray().astype(bool))
    return render(image, classes, palette, instances, _label_map(sample, 'gt_sem_seg'))


def _predicted_classes(sample: BaseDataElement, classes: Sequence[str]) -> Tuple[str, RGB]:
    """Return a classifier's prediction as text, with the true classes if wrong, and a colour."""
    labels = sample.pred_label.tolist()
    text = ', '.join(f'{classes[label]} {sample.pred_score[label]:.2f}' for label in labels)
    truth = sample.gt_label.tolist() if 'gt_label' in sample else labels
    if set(labels) != set(truth):
        return f'{text}, is {", ".join(classes[label] for label in truth)}', WRONG
    return text, RIGHT if 'gt_label' in sample else BLACK


def _label_map(sample: BaseDataElement, key: str) -> Optional[np.ndarray]:
    # Those of mmdet are named sem_seg instead, and have other classes than the instances.
    return sample.get(key).data[0].numpy() if 'data' in sample.get(key, ()) else None


def render(
    image: np.ndarray,
    classes: Sequence[str],
    palette: Sequence[RGB],
    instances: Optional[Any] = None,
    label_map: Optional[np.ndarray] = None,
) -> np.ndarray:
    """Draw instances and a label map on an image.

    Labels do not overlap. Labels with the highest scores and widest regions are placed first, and
    labels that do not fit near their box or region are dropped. Overlapping instances of a class
    have different shades of its colour.

    The image is (H, W, 3) uint8, BGR. Instances have ``bboxes`` (N, 4), ``labels`` (N,) and, if
    available, ``scores`` (N,) and ``masks`` (N, H, W), as tensors. Values of a label map (H, W)
    that are not a class are not drawn.

    Returns:
        (kH, kW, 3) uint8, BGR; k is 1, or larger for images smaller than :data:`LEAST_SIDE`, so
        that labels can be read.
    """
    canvas = cv2.cvtColor(enlarged(image), cv2.COLOR_BGR2RGB)
    size = canvas.shape[1::-1]
    font = font_of(max(13, min(size) // 38))
    labels: List[_Label] = []
    if label_map is not None:
        label_map = cv2.resize(label_map.astype(np.int32), size, interpolation=cv2.INTER_NEAREST)
        canvas = _blend(canvas, label_map, palette)
        labels += _of_regions(label_map, classes, palette, font.size)
    if instances is not None:
        if 'scores' in instances:
            instances = instances[instances.scores.argsort()]  # the highest score is on top
        factor = size[0] // image.shape[1]
        labels += _draw_instances(canvas, instances, factor, classes, palette)[::-1]
    drawn = Image.fromarray(canvas)
    pen = ImageDraw.Draw(drawn)
    for label, place in places(labels, font, size):
        pen.rectangle((place[0], place[1], place[2] - 1, place[3] - 1), fill=label.colour)
        red, green, blue = label.colour
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 140
        pen.text((place[0] + 2, place[1] + 1), label.text, 'white' if dark else 'black', font)
    return cv2.cvtColor(np.asarray(drawn), cv2.COLOR_RGB2BGR)


def enlarged(image: np.ndarray) -> np.ndarray:
    """Return an image, enlarged by an integer factor if smaller than :data:`LEAST_SIDE`."""
    factor = max(1, round(LEAST_SIDE / max(image.shape[:2])))
    return mmcv.imrescale(image, factor, interpolation='bicubic') if factor > 1 else image


def titled(image: np.ndarray, title: str, colour: RGB = BLACK) -> np.ndarray:
    """Return an image (H, W, 3), BGR, with a line of text above it; wider if the text is."""
    size, width = max(18, min(image.shape[:2]) // 40), image.shape[1]
    size = min(size, max(12, int(size * width / (font_of(size).getlength(title) + 4))))
    font = font_of(size)
    width = max(width, math.ceil(font.getlength(title)) + 4)
    head = Image.new('RGB', (width, sum(font.getmetrics()) + 4), 'white')
    ImageDraw.Draw(head).text((2, 1), title, colour, font)
    body = mmcv.impad(image, shape=(image.shape[0], width), pad_val=(255, 255, 255))
    return np.concatenate([np.asarray(head)[..., ::-1], body])


@functools.lru_cache
def font_of(size: int) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which matplotlib ships, at a size in pixels."""
    return ImageFont.truetype(f'{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf', size)


def _blend(canvas: np.ndarray, label_map: np.ndarray, palette: Sequence[RGB]) -> np.ndarray:
    """Blend the colours of classes with the image in grey, so that its colours do not mix in."""
    grey = cv2.cvtColor(cv2.cvtColor(canvas, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    table = np.array(palette, np.uint8)
    is_class = (label_map >= 0) & (label_map < len(palette))
    tints = cv2.addWeighted(grey, 1 - OPACITY, table[np.where(is_class, label_map, 0)], OPACITY, 0)
    return np.where(is_class[..., None], tints, grey)


def _of_regions(
    label_map: np.ndarray, classes: Sequence[str], palette: Sequence[RGB], line: int
) -> List[_Label]:
    """Return a label per class, at its widest point; the widest class first."""
    widest = []  # half a width, and label
    for index in np.unique(label_map[(label_map >= 0) & (label_map < len(classes))]):
        inside = np.pad((label_map == index).astype(np.uint8), 1)  # the border of the image counts
        distance = cv2.distanceTransform(inside, cv2.DIST_L2, 3)[1:-1, 1:-1]
        y, x = np.unravel_index(distance.argmax(), distance.shape)
        if distance[y, x] < line / 2:  # a label would hide it
            continue
        label = _Label(classes[index], (x, y, x, y), palette[index], reach=3 * line)
        widest.append((distance[y, x], label))
    return [label for _, label in sorted(widest, key=lambda pair: -pair[0])]


def _draw_instances(
    canvas: np.ndarray, instances: Any, factor: int, classes: Sequence[str], palette: Sequence[RGB]
) -> List[_Label]:
    """Draw masks and boxes onto `canvas`, later ones over earlier, and return their labels."""
    colours = _shades(instances, palette)
    width = max(1, round(min(canvas.shape[:2]) / 300))
    if 'masks' in instances:
        masks = instances.masks.numpy().astype(np.uint8)
        _draw_masks(canvas, masks, colours, max(1, width // 2))
    labels = []
    names = [classes[label] for label in instances.labels.int().tolist()]
    if 'scores' in instances:
        names = [f'{name} {score:.2f}' for name, score in zip(names, instances.scores.tolist())]
    for box, text, colour in zip((instances.bboxes * factor).tolist(), names, colours):
        left, top, right, bottom = (round(edge) for edge in box)
        cv2.rectangle(canvas, (left, top), (right, bottom), colour, width)
        labels.append(_Label(text, tuple(box), colour, reach=max(box[3] - box[1], 40)))
    return labels


def _shades(instances: Any, palette: Sequence[RGB]) -> List[RGB]:
    """Return the colours of instances, lighter for each overlapping one of the same class."""
    colours, earlier = [], []
    for box, label in zip(instances.bboxes.tolist(), instances.labels.int().tolist()):
        taken = {step for b, k, step in earlier if k == label and overlap(box, b)}
        step = min(set(range(len(taken) + 1)) - taken)
        earlier.append((box, label, step))
        share = min(step, 3) / 6
        colours.append(tuple(round(c + share * (255 - c)) for c in palette[label]))
    return colours


def _draw_masks(canvas: np.ndarray, masks: np.ndarray, colours: Sequence[RGB], line: int) -> None:
    """Tint pixels in the colour of the last mask that covers them, and draw outlines."""
    tints = canvas.copy()
    outlines = []
    for mask, colour in zip(masks, colours):
        if mask.shape != canvas.shape[:2]:  # of a small image
            mask = cv2.resize(mask, canvas.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        left, top, width, height = cv2.boundingRect(mask)
        if not width:
            continue
        box = slice(top, top + height), slice(left, left + width)  # the image would take longer
        tints[box][mask[box] > 0] = colour
        contours, _ = cv2.findContours(mask[box], cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        outlines.append((contours, colour, (left, top)))
    cv2.addWeighted(canvas, 1 - OPACITY, tints, OPACITY, 0, dst=canvas)
    for contours, colour, offset in outlines:
        cv2.drawContours(canvas, contours, -1, colour, line, offset=offset)


def places(
    labels: Sequence[_Label], font: ImageFont.FreeTypeFont, size: Tuple[int, int]
) -> Iterator[Tuple[_Label, Box]]:
    """Yield labels with places that do not overlap, in an image of a size (width, height).

    The choices are above the box, inside at its top, below it, inside at its bottom, and then the
    nearest free rows to its top, within the label's reach.
    """
    height = sum(font.getmetrics()) + 2
    height += height % 2  # rows are half a height apart
    rows = np.arange(0, size[1] - height, height // 2)
    taken: List[Box] = []
    for label in labels:
        width = round(font.getlength(label.text)) + 4
        left, top, right, bottom = (round(edge) for edge in label.box)
        if left == right:  # a point: the label is centred on it
            left, top, bottom = left - width // 2, bottom + height // 2, bottom + height // 2
        x = max(0, min(left, size[0] - width))
        distance = np.abs(rows - top)
        near = rows[np.argsort(distance, kind='stable')][: (distance <= label.reach).sum()]
        for y in (top - height, top, bottom, bottom - height, *near.tolist()):
            place = (x, y, x + width, y + height)
            inside = 0 <= y and place[2] <= size[0] and place[3] <= size[1]
            if inside and not any(overlap(place, other) for other in taken):
                taken.append(place)
                yield label, place
                break


def overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    """Return True if two boxes share more than an edge."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
