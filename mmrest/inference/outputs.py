"""Outputs of inference: visualizations, label maps and one JSON file in COCO format."""

import contextlib
import itertools
import json
import os
import os.path as osp
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence

import cv2
import numpy as np
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer
from PIL import Image

from ..checkpoint import write_atomically
from ..errors import UsageError
from .inputs import Input

COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
"""Ids between 1 and 90 that COCO does not use."""

FRAMES = '.frames'
"""Suffix of the folder with the label maps of a video."""


class Outputs(NamedTuple):
    """Paths of the outputs of inference, all in one folder."""

    folder: Path
    save_vis: bool = True
    save_pred: bool = True  # the JSON file, and label maps

    @property
    def json(self) -> Path:
        return self.folder / 'predictions.json'

    @property
    def all(self) -> List[Path]:
        """Everything that a run writes: the JSON file and two folders."""
        return [self.folder / 'vis', self.folder / 'preds', self.json]

    def vis(self, source: Input) -> Path:
        return self.folder / 'vis' / (source.name + ('.mp4' if source.is_video else '.jpg'))

    def label_map(self, source: Input, frame: Optional[int] = None) -> Path:
        """Return the label map of an image or frame; without `frame`, the folder of a video's."""
        suffix = FRAMES if source.is_video else '.png'
        path = self.folder / 'preds' / (source.name + suffix)
        return path if frame is None else path / f'{frame:06d}.png'

    def check(self, inputs: Sequence[Input], label_maps: bool, overwrite: bool) -> None:
        """Raise UsageError if an output is an input or a folder, or exists without `overwrite`.

        `label_maps` is True if the network predicts label maps.
        """
        planned = [self.vis(source) for source in inputs] if self.save_vis else []
        if self.save_pred:
            planned += [self.json, *(self.label_map(s) for s in inputs if label_maps)]
        refuse_to_overwrite(planned, (str(source.path) for source in inputs), '--out-dir')
        above = {parent for path in planned for parent in path.parents}
        for path in planned:
            if path in above or (path.is_dir() and path.suffix != FRAMES):
                raise UsageError(
                    f'{path} is a folder; choose another --out-dir, or pass inputs separately'
                )
            if len(os.fsencode(path.name)) > 255:  # the limit of most file systems
                raise UsageError(f'{path.name} is too long for a file; rename the input')
            if path.exists() and not overwrite:
                raise UsageError(f'{path} exists; choose another --out-dir or pass --overwrite')


def refuse_to_overwrite(written: Iterable[Path], read: Iterable[str], option: str) -> None:
    """Raise UsageError if a file to write is one of those that are read."""
    existing = [path for path in written if path.exists()]
    inputs = set(map(osp.realpath, read if existing else ()))
    for path in existing:
        if osp.realpath(path) in inputs:
            raise UsageError(
                f'{path} is an input and would be overwritten; choose another {option}'
            )


@contextlib.contextmanager
def coco_file(
    path: Path, categories: Sequence[dict]
) -> Iterator[Callable[[Dict[str, Any], BaseDataElement], None]]:
    """Context manager that writes a JSON file in COCO format.

    It is written atomically at the end; after an error or interruption, with the images so far, if
    any. Annotations are buffered in a temporary file, so memory does not grow with their number.
    The `categories` are the classes in the order of the labels, each with an ``id``.

    Yields:
        Function that adds an image, given its fields except ``id``, and its data sample.
    """
    images: List[dict] = []
    numbers = itertools.count(1)
    ids = [category['id'] for category in categories]

    def add(image: Dict[str, Any], sample: BaseDataElement) -> None:
        images.append(dict(id=len(images) + 1, **image))
        for annotation in detections(sample.get('pred_instances'), ids):
            number = next(numbers)
            entry = dict(id=number, **annotation, image_id=len(images))
            annotations.write((',\n' if number > 1 else '') + json.dumps(entry))

    def write(temporary: str) -> None:
        with open(temporary, 'w', encoding='utf-8') as file:
            entries = ',\n'.join(map(json.dumps, images))
            file.write(f'{{"images": [\n{entries}\n], "annotations": [\n')
            annotations.seek(0)
            shutil.copyfileobj(annotations, file)
            file.write(f'\n], "categories": {json.dumps(list(categories))}}}\n')

    with tempfile.TemporaryFile('w+', encoding='utf-8', dir=path.parent) as annotations:
        try:
            yield add
        finally:
            if images or sys.exc_info()[0] is None:
                try:
                    write_atomically(path, write)
                except KeyboardInterrupt:  # perhaps the second one, of somebody who waits
                    write_atomically(path, write)
                    raise


def coco_ids(classes: Sequence[str]) -> List[int]:
    """Return category ids of a detector: COCO's own for its 80 classes, otherwise 1, 2, 3, ..."""
    if (len(classes), classes[0], classes[-1]) == (80, 'person', 'toothbrush'):
        return [number for number in range(1, 91) if number not in COCO_GAPS]
    return list(range(1, len(classes) + 1))


def detections(instances: Optional[Any], ids: Sequence[int]) -> Iterator[Dict[str, Any]]:
    """Yield ``pred_instances`` of a data sample on the CPU, with the category id of each label.

    In COCO format, they have ``category_id``, ``bbox`` (left, top, width and height in pixels),
    ``area``, ``iscrowd`` (0), ``score`` and, if there are masks, ``segmentation`` as RLE.
    """
    if instances is None:
        return
    masks = instances.masks.numpy() if 'masks' in instances else [None] * len(instances)
    labels = instances.labels.int().tolist()  # floats from CrowdDet
    for label, score, (left, top, right, bottom), mask in zip(
        labels, instances.scores.tolist(), instances.bboxes.tolist(), masks
    ):
        box = [left, top, right - left, bottom - top]
        annotation = dict(
            category_id=ids[label], bbox=box, area=box[2] * box[3], iscrowd=0, score=score
        )
        if mask is not None:
            from pycocotools import mask as rle

            encoded = rle.encode(np.asfortranarray(mask, np.uint8))
            annotation['area'] = int(rle.area(encoded))
            annotation['segmentation'] = dict(encoded, counts=encoded['counts'].decode())
        yield annotation


def write_label_map(sample: BaseDataElement, ids: Sequence[int], path: Path) -> None:
    """Write ``pred_sem_seg`` of a sample on the CPU to a PNG file; its folder is created.

    Pixels have the `ids` of the labels, in steps of one, with 16 bits if 8 do not suffice.
    """
    labels = sample.pred_sem_seg.data[0].numpy()  # floats for binary segmentors
    _save((labels + ids[0]).astype(np.uint8 if max(ids) < 256 else np.uint16), path)


def write_image(image: np.ndarray, path: Path) -> None:
    """Write an image (H, W, 3), BGR, to a file; its folder is created."""
    _save(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), path, quality=95)


def _save(pixels: np.ndarray, path: Path, **options: Any) -> None:
    """Write a file with Pillow, which raises errors; OpenCV fails silently."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def open_video(path: Path, rate: float, size: Sequence[int]) -> cv2.VideoWriter:
    """Return a writer of an .mp4 file, for frames (H, W, 3), BGR; its folder is created.

    The rate is in frames per second, and the size is width and height. UsageError is raised if
    OpenCV cannot write the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not 0.01 <= rate <= 65:  # MPEG-4 has 16 bits for a rate in thousandths
        rate = max(round(rate, 2), 0.01)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), rate, tuple(size))
    if not writer.isOpened():
        raise UsageError(
            f'OpenCV cannot encode {path} with {size[0]} x {size[1]} pixels and {rate:g} frames '
            'per second; choose another --out-dir, or pass --no-save-vis'
        )
    return writer


class Viewer:
    """Viewer that saves images to a folder, shows them in a window, or both.

    Without a folder it saves nothing. Each image is shown for `wait_time` seconds.

    Raises:
        UsageError: there is no display to show images on.
    """

    def __init__(self, folder: Optional[Path], show: bool = False, wait_time: float = 2) -> None:
        if show and sys.platform == 'linux' and not os.environ.get('DISPLAY'):
            raise UsageError('no display (DISPLAY is not set); save images to a folder instead')
        self.folder = folder
        self._window = Visualizer() if show else None
        self._wait_time = wait_time

    def add(self, image: np.ndarray, name: str) -> None:
        """Save and show an image (H, W, 3), BGR, under a name without suffix."""
        if self.folder is not None:
            write_image(image, self.folder / f'{name}.jpg')
        if self._window is not None:
            self._window.show(image[..., ::-1], win_name=name, wait_time=self._wait_time)
