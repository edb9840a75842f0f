"""Images of datasets with predictions: of a test run, in a contact sheet, and in a report."""

import math
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any, Optional, Sequence, Tuple, Union

import cv2
import mmcv
import numpy as np
import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import BaseDataset, pseudo_collate
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from ..datasets.palette import classes_and_colours
from ..errors import UsageError
from .inputs import unique_names
from .outputs import Viewer, refuse_to_overwrite, write_image, write_label_map
from .overlay import DRAWN, draw, draw_annotations, drawable, render, titled

CELL_WIDTH, GAP = 430, 8  # of the images of a sheet, and between them, in pixels
PANEL_WIDTH = 480  # of an image of a report, in pixels


class PredictionsHook(Hook):
    """Hook that draws predictions next to the ground truth, if available, and saves label maps.

    mmdet's, mmseg's and mmpretrain's hooks name files by the image's base name, so a/0.jpg and
    b/0.jpg would overwrite each other.

    Without a viewer, nothing is drawn. `label_maps` is a folder for PNG files of segmentors, with
    the values of the dataset's annotation files. Detections below `score_thr` are not drawn.
    """

    def __init__(
        self, viewer: Optional[Viewer], label_maps: Optional[Path], score_thr: float = 0.3
    ) -> None:
        self._viewer = viewer
        self._label_maps = label_maps
        self._score_thr = score_thr

    def before_test(self, runner: Runner) -> None:
        self._dataset = dataset = runner.test_loop.dataloader.dataset
        infos = map(dataset.get_data_info, range(len(dataset)))
        read = [{key: info[key] for key in info if key.endswith('path')} for info in infos]
        paths = list(dict.fromkeys(files.get('img_path') for files in read))
        if None in paths:
            raise UsageError('the test images are not files; drop --show, --show-dir and --out')
        self._names = dict(zip(paths, unique_names(list(map(Path, paths)))))
        inputs = list(filter(None, chain(*map(dict.values, read))))
        if self._viewer and self._viewer.folder:
            written = [self._viewer.folder / f'{name}.jpg' for name in self._names.values()]
            refuse_to_overwrite(written, inputs, '--show-dir')
        if self._label_maps:
            written = [self._label_maps / f'{name}.png' for name in self._names.values()]
            refuse_to_overwrite(written, inputs, '--out')
        self._classes, self._palette = classes_and_colours(dataset)
        first = int(dataset.metainfo.get('reduce_zero_label') or False)
        self._ids = range(first, first + len(self._classes))

    def after_test_iter(self, runner: Runner, *, outputs: Sequence[Any], **_: Any) -> None:
        for sample in outputs:
            sample, name = sample.cpu(), self._names[sample.img_path]
            if self._label_maps is not None:
                write_label_map(sample, self._ids, self._label_maps / f'{name}.png')
            if self._viewer is not None:
                if not DRAWN & set(sample.keys()):
                    found = [key for key in sample.keys() if key.startswith('pred')]
                    raise UsageError(
                        f'{", ".join(found)} of the model cannot be drawn; drop --show, --show-dir'
                    )
                image = read_as(sample.img_path, self._dataset)
                drawn = draw(image, sample, self._classes, self._palette, self._score_thr)
                if 'bboxes' in sample.get('gt_instances', ()) or 'gt_sem_seg' in sample:
                    truth = draw_annotations(image, sample, self._classes, self._palette)
                    drawn = np.hstack([truth, drawn])
                self._viewer.add(drawn, name)


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


def draw_panel(path: Path, content: Any, dataset: BaseDataset) -> Tuple[bytes, str]:
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


def read_as(path: Union[str, Path], dataset: Any) -> np.ndarray:
    """Read an image as the network of a dataset sees it: (H, W, 3), uint8, BGR."""
    steps = getattr(getattr(dataset, 'pipeline', None), 'transforms', ())
    loader = next((step for step in steps if isinstance(step, LoadImageFromFile)), None)
    if loader is None or 'NDArray' in type(loader).__name__:  # which reads no files
        loader = LoadImageFromFile()
    return drawable(loader(dict(img_path=str(path)))['img'])
