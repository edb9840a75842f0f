"""The data sets of a run, built as the run builds them, and a sample of each prepared."""

import copy
import os.path as osp
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

from mmengine.config import Config
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from ..checkpoint import CheckpointError
from ..engine.config import dicts, first_line
from ..engine.errors import UsageError
from .annotations import check_categories, check_listed, check_voc, watched
from .names import check_misspelt
from .report import Report, some, spread

SAMPLES = 24
"""Samples of a data set that are prepared: a second or two for large images."""


class Sample(NamedTuple):
    """A sample of a data set.

    Attributes:
        info: what the data set knows of it, before the pipeline.
        packed: what its pipeline makes of it; None where it drops it.
    """

    info: Dict[str, Any]
    packed: Any


class Part(NamedTuple):
    """A data set of a run that reads files: wrappers are taken off.

    Attributes:
        where: its dotted key.
        phase: 'train', 'val' or 'test'.
        dataset: the data set.
        samples: a few of it.
    """

    where: str
    phase: str
    dataset: Any
    samples: List[Sample]

    @property
    def classes(self) -> Optional[List[str]]:
        """Names of the labels; None where heads count otherwise.

        Panoptic heads count things and stuff, and trackers the one class that they follow.
        """
        metainfo = getattr(self.dataset, 'metainfo', None) or {}
        found = metainfo.get('classes')
        kinds = {base.__name__ for base in type(self.dataset).__mro__}
        if not isinstance(found, (list, tuple)) or kinds & {'BaseVideoDataset'}:
            return None
        return None if 'thing_classes' in metainfo else list(found)


def build_loader(cfg: Config, phase: str, report: Report) -> Tuple[DataLoader, List[Part]]:
    """Build the data set of a phase, its sampler and its loader; nothing is loaded yet.

    Returns:
        The loader, and the data sets below their wrappers, without samples.

    Raises:
        UsageError: it cannot be built, is empty, or its annotations cannot be used.
    """
    where = f'{phase}_dataloader'
    for key, part in dicts(cfg[where], where):
        classes = (part.get('metainfo') or {}).get('classes') if 'metainfo' in part else None
        if isinstance(classes, str) and not osp.isfile(classes):
            raise UsageError(
                f'{key}.metainfo.classes is the string {classes!r}, where a list of names '
                f'belongs; write ({classes!r},), with the comma, for a single class'
            )
        if isinstance(classes, (list, tuple)) and len(set(classes)) < len(classes):
            raise UsageError(f'{key}.metainfo.classes names a class twice: {some(classes, 100)}')
        if not isinstance(part.get('ann_file', ''), str):
            raise UsageError(
                f'{key}.ann_file is {part.ann_file}, where one file belongs; use a ConcatDataset '
                'of several data sets'
            )
    try:
        with watched() as listed:
            loader = Runner.build_dataloader(cfg[where], seed=0)
    except UsageError:
        raise
    except Exception as error:  # whatever a data set raises
        for key, part in dicts(cfg[where], where):
            path = osp.join(part.get('data_root') or '', str(part.get('ann_file') or ''))
            if path in listed and 'metainfo' in part:
                check_categories(key, path, part.metainfo.get('classes') or (), listed[path])
        if 'need at least one array to concatenate' in str(error):
            raise UsageError(
                f'{where} has a data set without images: none has the size and an annotation of '
                'the classes that it asks for, or its folder has none; check metainfo.classes, '
                'filter_cfg, data_prefix and the suffixes'
            ) from error
        check_misspelt(where, cfg[where], error)
        remedy = ''
        if 'number of specified classes' in str(error):
            remedy = f'; set {where}.dataset.type=CustomDataset for those of the folders'
        raise UsageError(f'{where} cannot be built: {first_line(error)}{remedy}') from error
    parts = [
        Part(key, phase, dataset, [])
        for key, dataset in _leaves(f'{where}.dataset', loader.dataset)
    ]
    for part in parts:
        if not len(part.dataset):
            raise UsageError(f'{part.where} holds no image; check its paths and suffixes')
        of_file = listed.get(str(getattr(part.dataset, 'ann_file', None)))
        if of_file is not None and hasattr(part.dataset, 'cat_ids'):
            masks = any(step.get('with_mask') for step in _steps(cfg, part.where))
            evaluated = phase != 'train' and bool(cfg.get(f'{phase}_evaluator'))
            check_listed(part.where, part.dataset, of_file, masks, evaluated)
            used = f'{len(part.dataset):,} used of {of_file.images:,}'
        else:
            used = f'{len(part.dataset):,}'
        report.add(f'images of {part.where}', used)
        if part.classes is not None:
            names = part.classes
            report.add(
                f'classes of {part.where}',
                f'{len(names)}: {", ".join(names[:3])}{", ..." if len(names) > 3 else ""}',
            )
    return loader, parts


def _steps(cfg: Config, where: str) -> Iterator[dict]:
    node: Any = cfg
    for key in where.split('.'):
        node = node[int(key)] if isinstance(node, (list, tuple)) else node.get(key) or {}
    return (step for step in node.get('pipeline') or () if isinstance(step, dict))


def _leaves(where: str, dataset: Any) -> Iterator[Tuple[str, Any]]:
    inner = vars(dataset).get('dataset', vars(dataset).get('_dataset'))
    if vars(dataset).get('datasets'):
        for index, part in enumerate(dataset.datasets):
            yield from _leaves(f'{where}.datasets.{index}', part)
    elif hasattr(inner, '__getitem__'):
        yield from _leaves(f'{where}.dataset', inner)
    else:
        yield where, dataset


def sample(part: Part, most: int, report: Report) -> None:
    """Prepare samples of a data set, spread over it, with its own pipeline.

    Args:
        part: the data set; its samples are added to.
        most: how many.
        report: warnings are added to it.

    Raises:
        UsageError: an image is missing or does not decode, is not what its annotation says, or a
            step of the pipeline fails.
    """
    dataset = part.dataset
    if not hasattr(dataset, 'get_data_info') or not hasattr(dataset, 'pipeline'):
        return
    steps = getattr(copy.deepcopy(dataset.pipeline), 'transforms', None)
    for index in spread(len(dataset), most) if steps is not None else ():
        info = dataset.get_data_info(index)
        if not isinstance(info, dict):
            return  # a video, or something else that is no image
        part.samples.append(Sample(info, _prepare(part, steps, copy.deepcopy(info))))
    if part.samples and not any(s.packed is not None for s in part.samples):
        raise UsageError(
            f'{part.where}: its pipeline drops each of {len(part.samples)} images that were tried'
        )
    _check_kept(part)
    if part.samples and 'xml_path' in part.samples[0].info:
        check_voc(part.where, dataset, [s.info for s in part.samples], report)


def _prepare(part: Part, steps: List[Any], data: Dict[str, Any]) -> Any:
    path, info = data.get('img_path'), dict(data)
    for step in steps:
        name = type(step).__name__
        before = data
        try:
            data = step(data)
        except (UsageError, CheckpointError):
            raise
        except Exception as error:  # whatever a decoder or a transform raises
            raise UsageError(_failed(part, name, path, info, error)) from error
        if data is None:
            if name.startswith('LoadImage'):
                raise UsageError(_failed(part, name, path, info, ValueError('it is empty')))
            return None
        if ('ori_shape' in data and 'ori_shape' not in before) or name.startswith('LoadImage'):
            _check_size(part, path, info, data.get('ori_shape'))
        if name == 'LoadAnnotations' and info.get('seg_map_path') and 'gt_seg_map' in data:
            _check_label_map(part, path, info['seg_map_path'], data)
    return data


def _failed(
    part: Part, step: str, path: Optional[str], info: Dict[str, Any], error: Exception
) -> str:
    of_map = step == 'LoadAnnotations' and info.get('seg_map_path')
    path = of_map or path
    if step.startswith('Load') and (of_map or step != 'LoadAnnotations'):
        what = 'label map' if of_map else 'image'
        fault = f'{what} {path} ({part.where}) cannot be loaded ({first_line(error)})'
        if not osp.exists(str(path)):
            return (
                f'{what} {path} ({part.where}) does not exist; check its data_prefix and suffixes'
            )
        return f'{fault}; if it is damaged, fetch it again or remove it from the data'
    hint = ''
    if 'mix_results' in first_line(error):
        hint = '; it mixes images and belongs into the pipeline of a MultiImageMixDataset'
    return f'{step} of {part.where}.pipeline fails on {path} ({first_line(error)}){hint}'


def _check_size(part: Part, path: Optional[str], info: Dict[str, Any], shape: Any) -> None:
    if shape is None or not info.get('height') or not info.get('width'):
        return
    said, found = (info['height'], info['width']), tuple(shape[:2])
    if said != found:
        turned = ' (turned by its EXIF orientation)' if said == found[::-1] else ''
        raise UsageError(
            f'{path} ({part.where}) is {found[1]} x {found[0]} pixels{turned}, and its annotation '
            f'says {said[1]} x {said[0]}; mend width and height, and see that its boxes are those '
            'of the image as it is loaded'
        )


def _check_label_map(part: Part, path: Optional[str], label_path: str, data: dict) -> None:
    found = data['gt_seg_map']
    if found.ndim != 2:
        raise UsageError(
            f'label map {label_path} ({part.where}) has {found.shape[2]} channels, where one with '
            'the number of the class belongs; convert colours to numbers'
        )
    image = tuple((data.get('ori_shape') or found.shape)[:2])
    if found.shape != image:
        raise UsageError(
            f'label map {label_path} ({part.where}) is {found.shape[1]} x {found.shape[0]} pixels '
            f'and its image {path} {image[1]} x {image[0]}; make them of one size'
        )
    if label_path.endswith('.png') and osp.isfile(label_path):
        with open(label_path, 'rb') as file:  # the depth of a PNG is in its header
            if file.read(25)[24:] == b'\x10':
                raise UsageError(
                    f'label map {label_path} ({part.where}) has 16 bits, and mmseg keeps the '
                    'lower 8 alone; write it with 8 bits, classes from 0 and 255 for what is none'
                )


def _check_kept(part: Part) -> None:
    """What is annotated must come through the pipeline."""
    annotated = [s for s in part.samples if any(_is_learnt(i) for i in _instances(s.info))]
    if annotated and not any(count_instances(s.packed) != 0 for s in annotated):
        raise UsageError(
            f'{part.where}: its pipeline loses the boxes of each of {len(annotated)} images that '
            'were tried; see whether they lie within the images, and what its filters ask for'
        )
    if part.phase == 'train' and not annotated and part.samples:
        if 'instances' in part.samples[0].info and not _any_instance(part.dataset):
            raise UsageError(
                f'{part.where}: none of its {len(part.dataset)} images has an object to learn '
                'from (crowds, boxes without area and other classes do not count)'
            )


def _instances(info: Dict[str, Any]) -> List[dict]:
    return info.get('instances') or []


def _is_learnt(instance: dict) -> bool:
    return not instance.get('ignore_flag')


def _any_instance(dataset: Any) -> bool:
    infos = (dataset.get_data_info(index) for index in range(len(dataset)))
    return any(_is_learnt(instance) for info in infos for instance in _instances(info))


def count_instances(packed: Any) -> Optional[int]:
    """Boxes of a sample, packed or not yet; None where its kind has none."""
    if not isinstance(packed, dict):
        return None
    of_sample = getattr(packed.get('data_samples'), 'gt_instances', None)
    boxes = of_sample.get('bboxes') if of_sample is not None else packed.get('gt_bboxes')
    return None if boxes is None else len(boxes)


def label_values(part: Part) -> Dict[int, str]:
    """Values of the label maps of the samples, as the network gets them, each with a file."""
    values: Dict[int, str] = {}
    for info, packed in part.samples:
        if isinstance(packed, dict) and hasattr(packed.get('data_samples'), 'gt_sem_seg'):
            for value in packed['data_samples'].gt_sem_seg.data.unique().tolist():
                values.setdefault(value, info.get('seg_map_path') or info.get('img_path'))
    return values
