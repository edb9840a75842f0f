"""What inference leaves in a folder: pictures, label maps and one file of results."""

import json
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Dict, Iterator, List, Optional, Sequence, TextIO, Type

import cv2
import numpy as np
from mmengine.structures import BaseDataElement
from PIL import Image

from ..checkpoint import write_whole
from ..engine.errors import UsageError

COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
"""Ids between 1 and 90 that no category of COCO has."""


class Results:
    """Collects results and writes them as one JSON file in COCO's format.

    They wait in temporary files, so that memory stays bounded whatever their number.

    Args:
        path: of the JSON file; it is written when the object is left, whole or not at all, also
            on an error or an interruption, with what there is by then; after an error before the
            first image it is not.
        categories: the classes in the order of the labels, each with an ``id``.
    """

    def __init__(self, path: Path, categories: Sequence[dict]) -> None:
        self._path = path
        self._categories = list(categories)
        self._ids = [category['id'] for category in categories]
        self._images, self._annotations = (
            tempfile.TemporaryFile('w+', encoding='utf-8', dir=path.parent) for _ in range(2)
        )
        self._counts = dict(images=0, annotations=0)

    def __enter__(self) -> 'Results':
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        with self._images, self._annotations:
            if self._counts['images'] or kind is None:
                write_whole(self._path, self._write)

    def add(self, image: Dict[str, Any], sample: BaseDataElement) -> None:
        """Add an image and what was found in it.

        Args:
            image: its fields but for ``id``: file_name, width, height and others.
            sample: its data sample.
        """
        number = self._put('images', self._images, image)
        if 'pred_instances' in sample:
            for annotation in annotations(sample.pred_instances, self._ids):
                self._put('annotations', self._annotations, dict(annotation, image_id=number))

    def _put(self, what: str, file: TextIO, entry: Dict[str, Any]) -> int:
        self._counts[what] += 1
        separator = ',\n' if self._counts[what] > 1 else ''
        file.write(separator + json.dumps(dict(id=self._counts[what], **entry)))
        return self._counts[what]

    def _write(self, temporary: str) -> None:
        with open(temporary, 'w', encoding='utf-8') as file:
            file.write('{"images": [\n')
            self._images.seek(0)
            shutil.copyfileobj(self._images, file)
            file.write('\n], "annotations": [\n')
            self._annotations.seek(0)
            shutil.copyfileobj(self._annotations, file)
            file.write(f'\n], "categories": {json.dumps(self._categories)}}}\n')


def coco_ids(classes: Sequence[str]) -> List[int]:
    """Ids of a detector's classes: COCO's own for its 80 classes, else 1, 2, 3 and so on."""
    if (len(classes), classes[0], classes[-1]) == (80, 'person', 'toothbrush'):
        return [number for number in range(1, 91) if number not in COCO_GAPS]
    return list(range(1, len(classes) + 1))


def annotations(instances: Any, ids: Sequence[int]) -> Iterator[Dict[str, Any]]:
    """Detections as COCO has them.

    Args:
        instances: ``pred_instances`` of a data sample.
        ids: of the category of every label.

    Yields:
        ``category_id``, ``bbox`` (left, top, width and height in pixels), ``area``, ``iscrowd``
        (0) and ``score``, and where there are masks ``segmentation``, in run lengths.
    """
    masks = instances.masks.numpy() if 'masks' in instances else [None] * len(instances)
    for label, score, (left, top, right, bottom), mask in zip(
        instances.labels.tolist(), instances.scores.tolist(), instances.bboxes.tolist(), masks
    ):
        box = [left, top, right - left, bottom - top]
        annotation = dict(
            category_id=ids[label], bbox=box, area=box[2] * box[3], iscrowd=0, score=score
        )
        if mask is not None:
            from pycocotools import mask as run_lengths

            encoded = run_lengths.encode(np.asfortranarray(mask, np.uint8))
            annotation['area'] = int(run_lengths.area(encoded))
            size, counts = encoded['size'], encoded['counts'].decode()
            annotation['segmentation'] = dict(size=list(size), counts=counts)
        yield annotation


def write_label_map(sample: BaseDataElement, ids: Sequence[int], path: Path) -> None:
    """Write a label map as a PNG, with 16 bits a pixel where 8 do not suffice.

    Args:
        sample: data sample with ``pred_sem_seg``.
        ids: what to write for every label.
        path: of the file; its folder is made.
    """
    table = np.array(ids, np.uint8 if max(ids) < 256 else np.uint16)
    _save(table[sample.pred_sem_seg.data[0].numpy()], path)


def write_picture(picture: np.ndarray, path: Path) -> None:
    """Write a (H, W, 3) picture, BGR, to a file whose folder is made."""
    _save(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), path, quality=95)


def _save(pixels: np.ndarray, path: Path, **options: Any) -> None:
    """Write a file with Pillow, which says so where OpenCV would fail silently."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


class VideoPictures:
    """A video of pictures, written frame by frame; begun with the first one.

    Args:
        path: of the .mp4 file.
        rate: frames a second.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self._path = path
        self._rate = rate
        self._writer: Optional[cv2.VideoWriter] = None

    def __enter__(self) -> 'VideoPictures':
        return self

    def __exit__(self, *error: Any) -> None:
        if self._writer is not None:
            self._writer.release()

    def add(self, picture: np.ndarray) -> None:
        """Add a (H, W, 3) picture, BGR; all are of one size.

        Raises:
            UsageError: the file cannot be written, of which OpenCV says nothing by itself.
        """
        if self._writer is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            code = cv2.VideoWriter_fourcc(*'mp4v')
            size = picture.shape[1::-1]
            self._writer = cv2.VideoWriter(str(self._path), code, self._rate, size)
            if not self._writer.isOpened():
                raise UsageError(
                    f'video {self._path} cannot be written by OpenCV, with {size[0]} x {size[1]} '
                    f'pixels and {self._rate:g} frames a second; choose another --out-dir, or '
                    'leave pictures out with --no-save-vis'
                )
        self._writer.write(picture)
