"""A drawn data set: squares, discs and triangles on textured backgrounds.

Small enough to learn from scratch within minutes, and real enough to go through every part of a
detector, segmentor or classifier: sizes, colours and turns vary, shapes hide parts of each other.
Everything is drawn by seed: the same seed gives the same bytes.
"""

import json
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

import cv2
import numpy as np
from shapely.geometry import Point, Polygon

from ..engine.errors import UsageError

CLASSES = ('square', 'disc', 'triangle')
PALETTE = ((220, 60, 60), (60, 130, 230), (60, 180, 75))
"""Colours of the classes in pictures of predictions, RGB; the shapes have any colour."""

SPLITS = {'train': ('train2017', 'training'), 'val': ('val2017', 'validation')}
"""Names of a split in COCO's and in ADE20K's layout."""

MIN_SIZE = 32
"""Pixels below which shapes would be too few to tell apart."""

SMALL_SIZE = 64
"""Pixels of images in which shapes are larger, compared with the image."""

MARK = 'drawn_by_mmrest.txt'
"""File of a folder whose content may be drawn anew."""

_SHIFT = 4  # OpenCV takes corners in 16ths of a pixel


class Shape(NamedTuple):
    """One instance: index into :data:`CLASSES`, what is visible of it, and its colour (BGR)."""

    label: int
    visible: Polygon
    colour: Tuple[int, int, int]


def draw_scene(
    rng: np.random.Generator, height: int, width: int, label: Optional[int] = None
) -> Tuple[np.ndarray, List[Shape]]:
    """Draw one image.

    Args:
        rng: source of all choices.
        height: pixels.
        width: pixels.
        label: draw one shape, of this class; None draws up to six of any.

    Returns:
        The image, (height, width, 3) uint8 in OpenCV's channel order, and its shapes from back
        to front, each with the part of it that no other hides.
    """
    image = _background(rng, height, width)
    shapes: List[Shape] = []
    wanted = rng.integers(2, 7) if label is None else 1
    for _ in range(40):
        if len(shapes) == wanted:
            break
        drawn, outline = _outline(rng, height, width, label)
        # Every shape stays in one piece, without holes and mostly in sight.
        remaining = [shape.visible.difference(outline) for shape in shapes]
        if all(
            isinstance(left, Polygon)
            and not left.interiors
            and left.area > 0.9 * shape.visible.area
            for left, shape in zip(remaining, shapes)
        ):
            shapes = [shape._replace(visible=left) for shape, left in zip(shapes, remaining)]
            shapes.append(Shape(drawn, outline, _colour(rng, image, outline)))
            corners = np.round(np.array(outline.exterior.coords) * 2**_SHIFT).astype(np.int32)
            cv2.fillPoly(image, [corners], shapes[-1].colour, cv2.LINE_AA, _SHIFT)
    grain = rng.normal(0, 6, image.shape)
    return np.clip(image + grain, 0, 255).astype(np.uint8), shapes


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Clouds of two colours."""
    first, second = rng.integers(40, 216, (2, 3))
    coarse = rng.random((6, 6)).astype(np.float32)
    clouds = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
    return np.clip(first + (second - first) * clouds * 0.25, 0, 255).astype(np.uint8)


def _colour(rng: np.random.Generator, image: np.ndarray, outline: Polygon) -> Tuple[int, int, int]:
    """A colour that stands out from what the new shape is drawn over."""
    left, top, right, bottom = (int(edge) for edge in outline.bounds)
    mean = image[top : bottom + 1, left : right + 1].mean((0, 1))
    while True:
        colour = rng.integers(0, 256, 3)
        if np.abs(colour - mean).sum() > 200:
            return tuple(int(channel) for channel in colour)


def _outline(
    rng: np.random.Generator, height: int, width: int, label: Optional[int]
) -> Tuple[int, Polygon]:
    """Class, drawn where none is given, and outline of a new shape, inside the image."""
    if label is not None:  # one alone has more room
        sizes = 0.25, 0.4
    else:  # below some 12 pixels, a shape is hard to tell from another one
        sizes = (0.14, 0.28) if min(height, width) >= 2 * SMALL_SIZE else (0.2, 0.36)
    if label is None:
        label = int(rng.integers(len(CLASSES)))
    radius = rng.uniform(*sizes) * min(height, width)
    x, y = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
    if CLASSES[label] == 'disc':
        return label, Point(x, y).buffer(radius * 0.85, 16)
    corners = 4 if CLASSES[label] == 'square' else 3
    # Squares lie on a side and triangles point up, within 10 degrees: turned at will, they would
    # take hours to tell apart.
    upright = np.pi / 4 if corners == 4 else -np.pi / 2
    turns = upright + rng.uniform(-1, 1) * np.pi / 18 + np.arange(corners) * 2 * np.pi / corners
    outline = Polygon(np.stack((x + radius * np.cos(turns), y + radius * np.sin(turns)), 1))
    return label, outline


def write_shapes(
    root: Path, counts: Dict[str, int], height: int = 160, width: int = 192, seed: int = 0
) -> None:
    """Write the data set, the same images in two layouts.

    ``root/coco`` holds boxes and polygons in COCO's layout, ``root/ade`` label maps in ADE20K's:
    0 is unlabelled and unused, 1 the background, then :data:`CLASSES` from 2 up.

    Args:
        root: folder. Sets that were drawn there before are replaced.
        counts: number of images of each split, 'train' and 'val'.
        height: pixels of every image.
        width: pixels of every image.
        seed: another seed draws other images; splits never share one.

    Raises:
        ValueError: an image is to have less than 32 pixels in height or width.
        UsageError: there are files that were not drawn.
    """
    _check_size(height, width)
    _claim(root / 'coco', root / 'ade')
    for part, (split, count) in enumerate(counts.items()):
        coco_name, ade_name = SPLITS[split]
        folders = [
            root / 'coco' / coco_name,
            root / 'ade' / 'images' / ade_name,
            root / 'ade' / 'annotations' / ade_name,
            root / 'coco' / 'annotations',
        ]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            _remove_images_after(folder, count)
        content = _empty_coco()
        for index in range(count):
            image, shapes = draw_scene(np.random.default_rng((seed, part, index)), height, width)
            name = f'{index + 1:012d}'
            cv2.imwrite(str(folders[0] / f'{name}.jpg'), image)
            cv2.imwrite(str(folders[1] / f'{name}.jpg'), image)
            cv2.imwrite(str(folders[2] / f'{name}.png'), _label_map(shapes, height, width))
            _add_to_coco(content, index + 1, f'{name}.jpg', shapes, height, width)
        (folders[3] / f'instances_{coco_name}.json').write_text(json.dumps(content))


def write_classes(
    root: Path, counts: Dict[str, int], height: int = 64, width: int = 64, seed: int = 0
) -> None:
    """Write images of one shape each in ImageNet's layout, ``root/imagenet/SPLIT/CLASS/*.jpg``.

    Args:
        root: folder. A set that was drawn there before is replaced.
        counts: number of images of each split, 'train' and 'val', of all classes in turn.
        height: pixels of every image.
        width: pixels of every image.
        seed: another seed draws other images; splits never share one.

    Raises:
        ValueError: an image is to have less than 32 pixels in height or width.
        UsageError: there are files that were not drawn.
    """
    _check_size(height, width)
    _claim(root / 'imagenet')
    for part, (split, count) in enumerate(counts.items()):
        for label, name in enumerate(CLASSES):
            folder = root / 'imagenet' / split / name
            folder.mkdir(parents=True, exist_ok=True)
            _remove_images_after(folder, count)
            for index in range(label, count, len(CLASSES)):
                rng = np.random.default_rng((seed, part, index))
                image, _ = draw_scene(rng, height, width, label)
                cv2.imwrite(str(folder / f'{index + 1:012d}.jpg'), image)


def _check_size(height: int, width: int) -> None:
    if min(height, width) < MIN_SIZE:
        raise ValueError(f'shapes need images of at least {MIN_SIZE} pixels, got {height}x{width}')


def _claim(*folders: Path) -> None:
    """Make folders for drawn sets, unless one holds files of somebody else: COCO, for instance."""
    for folder in folders:
        if folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists():
            raise UsageError(
                f'{folder} holds files that were not drawn by mmrest; choose another folder'
            )
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARK).write_text('Drawn by mmrest, and replaced when shapes are drawn here.\n')


def _remove_images_after(folder: Path, count: int) -> None:
    """Remove what an earlier, larger set left: a label map's folder is its list of images."""
    for path in folder.iterdir():
        if path.suffix in ('.jpg', '.png') and path.stem.isdigit() and int(path.stem) > count:
            path.unlink()


def _label_map(shapes: List[Shape], height: int, width: int) -> np.ndarray:
    labels = np.ones((height, width), np.uint8)
    for shape in shapes:
        corners = np.round(np.array(shape.visible.exterior.coords) * 2**_SHIFT).astype(np.int32)
        cv2.fillPoly(labels, [corners], shape.label + 2, cv2.LINE_8, _SHIFT)
    return labels


def _empty_coco() -> dict:
    categories = [
        {'id': index + 1, 'name': name, 'supercategory': 'shape'}
        for index, name in enumerate(CLASSES)
    ]
    return {'info': {}, 'licenses': [], 'images': [], 'annotations': [], 'categories': categories}


def _add_to_coco(
    content: dict, number: int, name: str, shapes: List[Shape], height: int, width: int
) -> None:
    content['images'].append({'id': number, 'file_name': name, 'height': height, 'width': width})
    for shape in shapes:
        # COCO counts from the corner of a pixel, OpenCV from its centre.
        corners = np.clip(np.array(shape.visible.exterior.coords) + 0.5, 0, (width, height))
        (left, top), (right, bottom) = corners.min(0), corners.max(0)
        content['annotations'].append(
            {
                'id': len(content['annotations']) + 1,
                'image_id': number,
                'category_id': shape.label + 1,
                'bbox': [round(float(v), 2) for v in (left, top, right - left, bottom - top)],
                'area': round(float(shape.visible.area), 2),
                'iscrowd': 0,
                'segmentation': [[round(float(v), 2) for v in corners[:-1].flatten()]],
            }
        )
