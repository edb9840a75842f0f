"""Synthetic shapes dataset: squares, discs and triangles on textured backgrounds.

Small enough to learn from scratch within minutes, and real enough to exercise every part of a
detector, segmentor or classifier: sizes, colours and angles vary. The same seed gives the same
bytes.
"""

import json
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import cv2
import numpy as np

from ..errors import UsageError

# Class -> corners, radius relative to the others, and angle of the first corner.
OUTLINES = {
    'square': (4, 1.0, np.pi / 4),
    'disc': (64, 0.85, 0.0),
    'triangle': (3, 1.0, -np.pi / 2),
}
CLASSES = tuple(OUTLINES)

# Names of a split in COCO's and in ADE20K's layout.
SPLITS = {'train': ('train2017', 'training'), 'val': ('val2017', 'validation')}
MIN_SIZE = 32  # smallest side of an image, in pixels, at which classes can be distinguished
MARK = 'generated_by_mmrest.txt'  # in folders whose images may be overwritten
_SHIFT = 4  # OpenCV takes corners in 16ths of a pixel


def draw_scene(
    rng: np.random.Generator, height: int, width: int, label: Optional[int] = None
) -> Tuple[np.ndarray, np.ndarray, List[Tuple[int, np.ndarray]]]:
    """Draw one image.

    Args:
        rng: source of all choices.
        height, width: pixels.
        label: class of a single shape; None draws up to six shapes of any class.

    Returns:
        The image, (height, width, 3) uint8 in OpenCV's channel order; its label map,
        (height, width) uint8, 1 for the background and then the classes from 2 up; and its
        shapes, which do not overlap: indices into :data:`CLASSES`, and corners (N, 2) as x and y.
    """
    image = _background(rng, height, width)
    labels = np.ones((height, width), np.uint8)
    shapes = []
    wanted = rng.integers(2, 7) if label is None else 1
    for _ in range(200):
        if len(shapes) == wanted:
            break
        chosen, corners = _outline(rng, height, width, label)
        fixed_point = np.round(corners * 2**_SHIFT).astype(np.int32)
        mask = cv2.fillPoly(np.zeros_like(labels), [fixed_point], 1, cv2.LINE_8, _SHIFT) > 0
        if (labels[mask] == 1).all():
            labels[mask] = chosen + 2
            shapes.append((chosen, corners))
            colour = _colour(rng, image[mask].mean(0))
            cv2.fillPoly(image, [fixed_point], colour, cv2.LINE_AA, _SHIFT)
    grain = rng.normal(0, 6, image.shape)
    return np.clip(image + grain, 0, 255).astype(np.uint8), labels, shapes


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return clouds of two colours."""
    first, second = rng.integers(40, 216, (2, 3))
    coarse = rng.random((6, 6)).astype(np.float32)
    clouds = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
    return np.clip(first + (second - first) * clouds * 0.25, 0, 255).astype(np.uint8)


def _colour(rng: np.random.Generator, background: np.ndarray) -> Tuple[int, int, int]:
    """Return a colour that stands out from the background."""
    while True:
        colour = rng.integers(0, 256, 3)
        if np.abs(colour - background).sum() > 200:
            return tuple(int(channel) for channel in colour)


def _outline(
    rng: np.random.Generator, height: int, width: int, label: Optional[int]
) -> Tuple[int, np.ndarray]:
    """Return class, random for None, and corners (N, 2), as x and y, of a shape in the image."""
    if label is not None:  # a single one has more room
        sizes = 0.25, 0.4
    else:  # below about 12 pixels, classes are hard to distinguish
        sizes = (0.14, 0.28) if min(height, width) >= 128 else (0.2, 0.36)
        label = int(rng.integers(len(CLASSES)))
    radius = rng.uniform(*sizes) * min(height, width)
    centre = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
    # Squares and triangles are upright within 10 degrees: turned at random, they would take
    # hours to learn.
    angle = rng.uniform(-1, 1) * np.pi / 18
    count, scale, first = OUTLINES[CLASSES[label]]
    angles = first + angle + np.arange(count) * 2 * np.pi / count
    return label, centre + radius * scale * np.stack((np.cos(angles), np.sin(angles)), 1)


def write_shapes(
    root: Path, counts: Dict[str, int], height: int = 160, width: int = 192, seed: int = 0
) -> None:
    """Write the dataset, the same images in two layouts.

    ``root/coco`` has boxes and polygons in COCO's layout, ``root/ade`` label maps in ADE20K's:
    0 is unlabelled and unused, 1 the background, then :data:`CLASSES` from 2 up.

    Args:
        root: folder; overwrites what was generated there before.
        counts: number of images per split, 'train' and 'val'.
        height, width: pixels of every image; at least :data:`MIN_SIZE`.
        seed: different seeds give different images; splits never share an image.

    Raises:
        UsageError: the folders contain files that were not generated.
    """
    _prepare(root / 'coco', root / 'ade')
    for part, (split, count) in enumerate(counts.items()):
        coco_name, ade_name = SPLITS[split]
        photos, annotations = root / 'coco' / coco_name, root / 'coco' / 'annotations'
        copies, maps = (root / 'ade' / kind / ade_name for kind in ('images', 'annotations'))
        for folder in (photos, annotations, copies, maps):
            folder.mkdir(parents=True, exist_ok=True)
        categories = [
            {'id': index, 'name': name, 'supercategory': 'shape'}
            for index, name in enumerate(CLASSES, 1)
        ]
        content = dict(info={}, licenses=[], images=[], annotations=[], categories=categories)
        for index in range(count):
            rng = np.random.default_rng((seed, part, index))
            image, labels, shapes = draw_scene(rng, height, width)
            name = f'{index + 1:012d}'
            cv2.imwrite(str(photos / f'{name}.jpg'), image)
            cv2.imwrite(str(copies / f'{name}.jpg'), image)
            cv2.imwrite(str(maps / f'{name}.png'), labels)
            entry = dict(id=index + 1, file_name=f'{name}.jpg', height=height, width=width)
            content['images'].append(entry)
            for label, corners in shapes:
                # COCO counts from the corner of a pixel, OpenCV from its centre.
                corners = np.clip(corners + 0.5, 0, (width, height))
                (left, top), (right, bottom) = corners.min(0), corners.max(0)
                annotation = dict(
                    image_id=entry['id'],
                    category_id=label + 1,
                    bbox=np.round((left, top, right - left, bottom - top), 2).tolist(),
                    area=round(cv2.contourArea(corners.astype(np.float32)), 2),
                    iscrowd=0,
                    segmentation=[np.round(corners.flatten(), 2).tolist()],
                    id=len(content['annotations']) + 1,
                )
                content['annotations'].append(annotation)
        (annotations / f'instances_{coco_name}.json').write_text(json.dumps(content))


def write_classes(
    root: Path, counts: Dict[str, int], height: int = 64, width: int = 64, seed: int = 0
) -> None:
    """Write images of one shape each in ImageNet's layout, ``root/imagenet/SPLIT/CLASS/*.jpg``.

    For arguments and errors, see :func:`write_shapes`; `counts` include all classes.
    """
    _prepare(root / 'imagenet')
    for part, (split, count) in enumerate(counts.items()):
        for label, name in enumerate(CLASSES):
            folder = root / 'imagenet' / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(label, count, len(CLASSES)):
                rng = np.random.default_rng((seed, part, index))
                image, _, _ = draw_scene(rng, height, width, label)
                cv2.imwrite(str(folder / f'{index + 1:012d}.jpg'), image)


def _prepare(*folders: Path) -> None:
    """Make folders and remove generated images; raise UsageError if a folder has other files."""
    for folder in folders:
        if folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists():
            raise UsageError(
                f'{folder} contains files not generated by mmrest; choose another output directory'
            )
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARK).write_text('Generated by mmrest; to be overwritten if generated again.\n')
        # Datasets list the images of a folder, so none of a larger one may remain.
        for path in folder.rglob('*'):
            if path.suffix in ('.jpg', '.png') and path.stem.isdigit():
                path.unlink()
