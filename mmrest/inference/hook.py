"""Visualizations and label maps of a test run."""

from pathlib import Path
from typing import Any, Optional, Sequence

import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..datasets.palette import classes_and_colours
from ..errors import UsageError
from .inputs import read_as, unique_names
from .outputs import Viewer, refuse_to_overwrite, write_label_map
from .overlay import DRAWN, draw, draw_annotations


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
        files = [{key: info[key] for key in info if key.endswith('path')} for info in infos]
        images = list(dict.fromkeys(paths.get('img_path') for paths in files))
        if None in images:
            raise UsageError('the test images are not files; drop --show, --show-dir and --out')
        self._names = dict(zip(images, unique_names(list(map(Path, images)))))
        inputs = [path for paths in files for path in paths.values() if path]
        if self._viewer is not None and self._viewer.folder is not None:
            drawn = (self._viewer.folder / f'{name}.jpg' for name in self._names.values())
            refuse_to_overwrite(drawn, inputs, '--show-dir')
        if self._label_maps is not None:
            written = (self._label_maps / f'{name}.png' for name in self._names.values())
            refuse_to_overwrite(written, inputs, '--out')
        self._classes, self._palette = classes_and_colours(dataset)
        first = int(dataset.metainfo.get('reduce_zero_label') or False)
        self._ids = range(first, first + len(self._classes))

    def after_test_iter(self, runner: Runner, *, outputs: Sequence[Any], **_: Any) -> None:
        for sample in outputs:
            sample, name = sample.cpu(), self._names[sample.img_path]
            if not DRAWN & set(sample.keys()):
                predicted = [key for key in sample.keys() if key.startswith('pred')]
                raise UsageError(
                    f'{", ".join(predicted)} of the model cannot be drawn; drop --show, '
                    '--show-dir and --out'
                )
            if self._label_maps is not None:
                write_label_map(sample, self._ids, self._label_maps / f'{name}.png')
            if self._viewer is not None:
                image = read_as(sample.img_path, self._dataset)
                drawn = draw(image, sample, self._classes, self._palette, self._score_thr)
                if 'bboxes' in sample.get('gt_instances', ()) or 'gt_sem_seg' in sample:
                    truth = draw_annotations(image, sample, self._classes, self._palette)
                    drawn = np.hstack([truth, drawn])
                self._viewer.add(drawn, name)
