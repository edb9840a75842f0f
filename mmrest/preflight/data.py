"""Datasets of a run, built as in the run, and prepared samples of each."""

import copy
import os.path as osp
from collections import Counter
from typing import Any, Callable, Collection, Dict, Iterator, List, NamedTuple, Optional, Tuple

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.fileio import list_dir_or_file
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch.utils.data import DataLoader, Dataset

from ..engine.config import dicts, is_classifier, is_segmentor, type_name
from ..engine.data_loading import ResumableBatchSampler
from ..errors import UsageError, counted, explained, some
from .annotations import FileCounts, checked_reading
from .findings import Report, quiet

SAMPLES = 24
"""Number of samples to prepare per dataset; takes a second or two for large images."""

MAX_BYTES = 2**29
"""Size of images, masks and label maps after which no more samples are prepared and kept."""

FEW_IMAGES = 5000
"""Number of images up to which the files of all are checked before each run."""

MAX_OUTSIDE = 0.05
"""Share of boxes beyond their image from which a file is suspicious."""

WIDE = ('.png', '.tif', '.tiff')
"""Suffixes of label maps that may have 16 bits."""


class Sample(NamedTuple):
    """Data info of a sample, and the pipeline's output; None if the pipeline drops the sample."""

    info: Dict[str, Any]
    packed: Any

    @property
    def objects(self) -> List[Dict[str, Any]]:
        """Instances of the info that are not ignored."""
        return [i for i in self.info.get('instances') or () if not i.get('ignore_flag')]

    @property
    def truth(self) -> Any:
        """Packed annotations; an empty dict if there are none."""
        truth = self.packed.get('data_samples') if isinstance(self.packed, dict) else None
        return truth if isinstance(truth, BaseDataElement) else {}

    @property
    def label_map(self) -> Any:
        """Packed values of the pixels; empty if there are none."""
        return getattr(getattr(self.truth, 'gt_sem_seg', None), 'data', ())

    @property
    def boxes(self) -> Optional[int]:
        """Number of packed boxes; None if there is no field for them."""
        boxes = getattr(self.truth, 'gt_instances', {}).get('bboxes')
        return None if boxes is None else len(boxes)

    @property
    def empty_boxes(self) -> int:
        """Number of packed boxes without area."""
        boxes = getattr(self.truth, 'gt_instances', {}).get('bboxes')
        if not hasattr(boxes, 'widths'):
            return 0
        return int(((boxes.widths <= 0) | (boxes.heights <= 0)).sum())


class Part(NamedTuple):
    """Dataset of a run that reads files, without wrappers."""

    where: str  # its dotted key
    phase: str  # 'train', 'val' or 'test'
    dataset: Any
    samples: List[Sample]  # some of them

    @property
    def is_usual(self) -> bool:
        """Return True if a sample is its info after the pipeline, and nothing else."""
        return getattr(type(self.dataset), 'prepare_data', None) is BaseDataset.prepare_data

    @property
    def metainfo(self) -> Dict[str, Any]:
        """Meta information of the dataset, such as class names."""
        return getattr(self.dataset, 'metainfo', None) or {}

    @property
    def classes(self) -> Optional[List[str]]:
        """Names of the labels; None for trackers, which follow a single class."""
        names = self.metainfo.get('classes')
        tracks = 'BaseVideoDataset' in {base.__name__ for base in type(self.dataset).__mro__}
        return list(names) if isinstance(names, (list, tuple)) and not tracks else None

    def prepare(self, info: Dict[str, Any], last: Optional[Callable] = None) -> Any:
        """Run the pipeline on a sample, with a transform before it is packed.

        Raises:
            UsageError: a step fails, or the loaded sizes do not match the annotation.
        """
        data = copy.deepcopy(info)
        for step in copy.deepcopy(self.dataset.pipeline).transforms:  # some keep images
            name = type(step).__name__
            loads = name.startswith('Load')
            if last is not None and name.startswith('Pack'):
                data = last(data)
            path = getattr(step, 'with_seg', False) and info.get('seg_map_path')
            fault = f'{name} of {self.where}.pipeline fails on {path or info.get("img_path")}'
            remedy = 'if the file is damaged, replace it; or check its annotations'
            if name == 'LoadAnnotations' and self.phase == 'train' and _is_moved(data):
                raise UsageError(
                    f'{self.where}.pipeline resizes or flips images before LoadAnnotations loads '
                    'their annotations, which then do not match; put LoadAnnotations first'
                )
            with explained(fault, remedy if loads else ''):
                data = step(data)
            if data is None:
                return None
            if loads and 'ori_shape' in data:
                self._check_sizes(info, data, step)
        return data

    def _check_sizes(self, info: Dict[str, Any], data: Dict[str, Any], step: Any) -> None:
        height, width = data['ori_shape'][:2]
        stated = (info.get('height'), info.get('width'))
        if all(stated) and stated != (height, width):
            raise UsageError(
                f'{info["img_path"]} ({self.where}) is {width} x {height} pixels, but its '
                f'annotation says {stated[1]} x {stated[0]}; fix them (an EXIF orientation '
                'rotates images), and check the boxes'
            )
        labels, path, fault = data.get('gt_seg_map'), info.get('seg_map_path'), ''
        if labels is None or not path:
            return
        if labels.ndim != 2:
            fault = f'has {labels.shape[2]} channels; convert colours to one class index per pixel'
        elif path.lower().endswith(('.jpg', '.jpeg')) and type(step).__name__ == 'LoadAnnotations':
            fault = 'is a JPEG, which changes values; save it as PNG'
        elif labels.shape != (height, width):
            fault = (
                f'is {labels.shape[1]} x {labels.shape[0]} pixels, but its image is {width} x '
                f'{height}; make them the same size (an EXIF orientation rotates images)'
            )
        elif path.lower().endswith(WIDE) and osp.isfile(path) and labels.dtype == np.uint8:
            backend = getattr(step, 'imdecode_backend', None)
            if mmcv.imread(path, 'unchanged', backend=backend).max() > 255:
                fault = 'has 16 bits, but mmseg reads only the lower 8; save it with 8 bits'
        if fault:
            raise UsageError(f'label map {path} ({self.where}) {fault}')


def build_loader(cfg: Config, phase: str, report: Report) -> Tuple[DataLoader, List[Part]]:
    """Build the loader of a phase; return it, and the datasets inside their wrappers.

    Raises:
        UsageError: it cannot be built, is empty, or its annotations cannot be used.
    """
    where = f'{phase}_dataloader'
    nodes = list(dicts(cfg[where], where))
    masks = any(node.get('with_mask') for _, node in nodes)
    with checked_reading(masks) as read, quiet() as logged, explained(f'{where} cannot be built'):
        for key, node in nodes:
            _check_class_names(cfg, key, (node.get('metainfo') or {}).get('classes') or (), report)
        try:
            loader = Runner.build_dataloader(cfg[where], seed=0)
        except ValueError:  # mmdet cannot serialise an empty list
            _check_objects(where, phase, read.values(), report)
            raise
    # The run takes the datasets over, and would not log them again.
    report.warnings += [f'{where}: {record.getMessage()}' for record in logged]
    by_epoch = cfg.train_cfg.get('max_epochs') if phase == 'train' else True
    if by_epoch and ResumableBatchSampler(loader.batch_sampler).is_endless:
        raise UsageError(
            f'{where}.sampler ({type(loader.batch_sampler.sampler).__name__}) is endless, so an '
            'epoch or evaluation never ends; set DefaultSampler'
        )
    parts = list(_leaves(f'{where}.dataset', phase, loader.dataset))
    files = [read.get(str(getattr(p.dataset, 'ann_file', None)), FileCounts()) for p in parts]
    _check_objects(where, phase, files, report)
    for part, file in zip(parts, files):
        if not len(part.dataset):
            raise UsageError(f'{part.where} has no images; check its paths and suffixes')
        part.samples.extend(_prepared(part))
        _check_boxes(part, report)
        _check_label_maps(part, report)
        used = f' used of {file.images:,}' if file.images else ''
        filters = getattr(part.dataset, 'filter_cfg', None) and part.dataset._indices is None
        if filters and len(part.dataset) < file.images:
            used += '; filter_cfg drops the others'
        report.add(f'images of {part.where}', f'{len(part.dataset):,}{used}')
        if file.objects:
            report.add(f'objects of {part.where}', f'{file.used:,} used of {file.objects:,}')
        report.warnings += [f'{part.where} {warning}' for warning in file.warnings()]
        images = [image_of(sample.packed) for sample in part.samples]
        sizes = {f'{i.shape[-1]} x {i.shape[-2]}' for i in images if i is not None}
        is_mmseg = type_name(cfg.model.get('data_preprocessor') or {}) == 'SegDataPreProcessor'
        batched = is_mmseg and phase != 'train' and (loader.batch_size or 1) > 1
        if batched and len(sizes) > 1:
            raise UsageError(
                f'images of {part.where} have several sizes ({some(sorted(sizes), 3)}), but mmseg '
                f'evaluates batches of one size; set {where}.batch_size=1'
            )
        if part.classes:
            report.add(f'classes of {part.where}', f'{len(part.classes)}: {some(part.classes, 3)}')
    return loader, parts


def check_images(parts: Collection[Part], report: Report) -> None:
    """Check the files of all images; warn about repeated ones, and those also trained on.

    Raises:
        UsageError: files do not exist or are empty.
    """
    trained: set = set()
    for part in parts:
        loaded = [sample.info.get('img_path') for sample in part.samples]
        if not all(isinstance(path, str) and osp.isfile(path) for path in loaded or [None]):
            continue  # videos, or images of an archive or another storage
        infos = map(part.dataset.get_data_info, range(len(part.dataset)))
        # Datasets of texts, such as RefCOCO, list an image once per text.
        paths = Counter(osp.abspath(info['img_path']) for info in infos if 'text' not in info)
        faulty = [path for path in paths if not osp.isfile(path) or not osp.getsize(path)]
        steps = getattr(getattr(part.dataset, 'pipeline', None), 'transforms', ())
        skips = any(getattr(step, 'ignore_empty', False) for step in steps)  # such images
        if faulty and not skips:
            raise UsageError(
                f'{counted(len(faulty), "image")} of {part.where} not found or empty: '
                f'{some(faulty, 3)}; replace them, or remove them from the annotations'
            )
        repeated = [path for path, count in paths.items() if count > 1]
        if repeated:
            report.warnings.append(
                f'{part.where} lists {counted(len(repeated), "image")} more than once: '
                f'{some(repeated, 3)}; list each once, with all of its objects'
            )
        shared = trained.intersection(paths)
        if part.phase == 'train':
            trained.update(paths)
        elif shared:
            report.warnings.append(
                f'{len(shared)} of {counted(len(paths), "image")} of {part.where} are also '
                'trained on, so its metrics are too high; use other images'
            )


def _check_class_names(cfg: Config, key: str, classes: Any, report: Report) -> None:
    if isinstance(classes, str):  # a file with one name per line, or a mistake
        if osp.isfile(classes):
            return
        raise UsageError(
            f'{key}.metainfo.classes is the string {classes!r}, but must be a list of '
            f'names; write ({classes!r},), with the comma, for a single class'
        )
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if twice:
        repeated = f'{key}.metainfo.classes lists {some(twice)} more than once; '
        if not (is_classifier(cfg) or is_segmentor(cfg)):  # names select the labels
            raise UsageError(repeated + 'list each class once')
        report.warnings.append(repeated + 'check that it is intended')


def _check_objects(where: str, phase: str, files: Collection[FileCounts], report: Report) -> None:
    other_formats = not files or not all(file.images for file in files)  # neither COCO nor VOC
    if phase == 'test' or other_formats or any(file.used for file in files):
        return
    reasons = [reason for file in files for reason in file.warnings()]
    reasons = reasons or ['its annotation files list none']
    fault = '; '.join([f'{where} has no object that can be used', *reasons])
    if phase == 'train':
        raise UsageError(fault)
    report.warnings.append(fault)


def _leaves(where: str, phase: str, dataset: Any) -> Iterator[Part]:
    inner = vars(dataset).get('dataset', vars(dataset).get('_dataset'))
    several = vars(dataset).get('datasets') or ()
    if several and all(isinstance(part, Dataset) for part in several):
        for index, part in enumerate(several):
            yield from _leaves(f'{where}.datasets.{index}', phase, part)
    elif isinstance(inner, Dataset):
        yield from _leaves(f'{where}.dataset', phase, inner)
    else:
        yield Part(where, phase, dataset, [])


def _check_label_maps(part: Part, report: Report) -> None:
    """Warn about label maps without an image, which may have another suffix than the others.

    Raises:
        UsageError: an image has no label map.
    """
    dataset = part.dataset
    if not hasattr(dataset, 'seg_map_suffix') or dataset.ann_file:
        return
    folder = osp.join(dataset.data_prefix.get('seg_map_path') or '', '')
    if not osp.isdir(folder):
        return
    files = list_dir_or_file(folder, list_dir=False, suffix=dataset.seg_map_suffix, recursive=True)
    names, infos = set(files), map(dataset.get_data_info, range(len(dataset)))
    paths = [info.get('seg_map_path') or '' for info in infos]
    wanted = {path[len(folder) :] for path in paths if path.startswith(folder)}
    missing = [name for name in wanted - names if not osp.isfile(osp.join(folder, name))]
    unused = len(names - wanted)
    loads = any(type(step).__name__ == 'LoadAnnotations' for step in dataset.pipeline.transforms)
    if missing and loads:
        raise UsageError(
            f'{len(missing)} images of {part.where} have no label map: {some(sorted(missing), 3)} '
            f'not found in {folder}; add them, or remove the images'
        )
    if unused and dataset._indices is None:
        report.warnings.append(
            f'{part.where} does not use {unused} label maps in {folder}; check that each has an '
            f'image of its name that ends with {dataset.img_suffix!r} (img_suffix)'
        )


def _prepared(part: Part) -> List[Sample]:
    """Return samples spread over a dataset; none of videos and datasets without a pipeline."""
    count = len(part.dataset)
    pipeline = getattr(part.dataset, 'pipeline', None)
    if not hasattr(pipeline, 'transforms') or not hasattr(part.dataset, 'get_data_info'):
        return []
    samples: Dict[int, Sample] = {}
    kept = 0
    for number in range(SAMPLES):
        index = 7 * number % SAMPLES * count // SAMPLES  # spread over the set at any number
        if index in samples or (len(samples) > 1 and kept > MAX_BYTES):
            continue
        info = part.dataset.get_data_info(index)
        if not isinstance(info, dict) or 'images' in info:
            return []  # a video, or something else that is not an image
        path = info.get('img_path')
        with explained(f'sample {index} of {part.where} ({path}) cannot be prepared'):
            packed = part.prepare(info) if part.is_usual else part.dataset.prepare_data(index)
        sample = samples[index] = Sample(info, packed)
        masks = getattr(sample.truth, 'gt_instances', {}).get('masks')
        arrays = image_of(packed), getattr(masks, 'masks', None), sample.label_map
        kept += sum(getattr(array, 'nbytes', 0) for array in arrays)
    return [samples[index] for index in sorted(samples)]


def _check_boxes(part: Part, report: Report) -> None:
    """Warn about boxes outside of their image, and about empty ones.

    Raises:
        UsageError: the pipeline drops all samples, or all their boxes.
    """
    annotated = [sample for sample in part.samples if sample.objects]
    outside = [
        not box[0] <= box[2] <= s.info['width'] + 1 or not box[1] <= box[3] <= s.info['height'] + 1
        for s in annotated
        if s.info.get('width') and s.info.get('height')
        for box in (instance.get('bbox', ()) for instance in s.info['instances'])
        if len(box) == 4  # not rotated
    ]
    if sum(outside) > MAX_OUTSIDE * len(outside):
        report.warnings.append(
            f'{sum(outside)} of {len(outside)} boxes of {part.where} extend beyond their image, '
            'or have swapped corners; the bbox of COCO is x, y, width and height, in pixels'
        )
    if part.phase == 'train' and any(sample.empty_boxes for sample in part.samples):
        report.warnings.append(
            f'the pipeline of {part.where} leaves boxes without area, which make the loss of '
            'R-CNN NaN; add FilterAnnotations after its crops'
        )
    dropped = part.samples and all(sample.packed is None for sample in part.samples)
    if dropped or (annotated and all(sample.boxes == 0 for sample in annotated)):
        raise UsageError(
            f'{part.where}: its pipeline drops all of {len(annotated or part.samples)} images '
            'tried, or their boxes; check its filters, and that the boxes are inside the images'
        )


def _is_moved(data: Dict[str, Any]) -> bool:
    before, now = data.get('ori_shape'), data.get('img_shape')
    return bool(data.get('flip') or (before and now and tuple(before[:2]) != tuple(now[:2])))


def image_of(packed: Any) -> Optional[torch.Tensor]:
    """Return the tensor of a packed image or batch; None if it is something else."""
    inputs = packed.get('inputs') if isinstance(packed, dict) else None
    return inputs if torch.is_tensor(inputs) and inputs.dim() > 2 else None
