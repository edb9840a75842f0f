"""A sample of the images and label maps of a run: they are there, decode, and fit the heads."""

import copy
import os.path as osp
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, TRANSFORMS

from ..arguments import find_type
from ..config import dicts, first_line, type_name
from ..errors import UsageError
from .annotations import Annotations
from .classes import heads, known_classes
from .facts import Fact, Facts
from .files import check_path, is_local

LOOKED_FOR = 100
"""Images of a data set whose files must exist.

They tell whether the folder is the right one; COCO has a thousand times as many.
"""

DECODED = 24
"""Images of a data set, and label maps, that are decoded: a second or two for large ones."""

IGNORED = 255
"""What mmseg's loader makes of pixels that are of no class."""


def spread(items: Sequence[Any], most: int) -> List[Any]:
    """At most so many of the items, at equal distances, the first one among them."""
    count = min(most, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def check_pictures(
    cfg: Config, phases: Tuple[str, ...], annotations: Annotations
) -> Tuple[Facts, Dict[str, int]]:
    """Decode a sample of what the data sets of a run list, with the loaders of their pipelines.

    Args:
        cfg: config of the run.
        phases: which of 'train', 'val' and 'test' it goes through.
        annotations: reader of the annotation files.

    Returns:
        Facts, and the number of samples of each data set by its dotted key.

    Raises:
        UsageError: a file is missing or does not decode, a folder holds no image, or a label map
            holds a class that a head does not predict.
    """
    facts: Facts = []
    counts: Dict[str, int] = {}
    for phase in phases:
        name = f'{phase}_dataloader'
        for where, dataset in dicts(cfg.get(name), name):
            if not is_local(dataset) or not isinstance(dataset.get('data_prefix'), dict):
                continue
            of_labels = hasattr(find_type(type_name(dataset)), 'get_label_map')
            if of_labels:
                samples, used = _listed_by_type(where, dataset)
            else:
                samples, used = _listed_in_json(where, dataset, annotations)
            if not samples:
                continue
            counts[where] = _kept(dataset, used)
            decoded = spread(samples, DECODED)
            values = decode(where, dataset, decoded)
            found = f'{counts[where]:,} used of {len(samples):,}; {len(decoded)} decoded'
            if of_labels and values:
                _check_labels(cfg, where, values)
                labels = set().union(*(found.tolist() for found in values.values())) - {IGNORED}
                found += f', with {len(labels)} classes in their label maps'
            facts.append(Fact(f'images of {where}', found))
    return facts, counts


def _kept(dataset: dict, used: int) -> int:
    indices = dataset.get('indices')
    if indices is None:
        return used
    return min(abs(indices), used) if isinstance(indices, int) else len(indices)


def _listed_in_json(where: str, dataset: dict, annotations: Annotations) -> Tuple[List[dict], int]:
    found = annotations.listing(where, dataset, known_classes(where, dataset))
    folder = (dataset.get('data_prefix') or {}).get('img')
    if found is None or not isinstance(folder, str):
        return [], 0
    folder = osp.join(dataset.get('data_root') or '', folder)
    samples = [dict(img_path=osp.join(folder, name)) for name in found.images]
    for sample in spread(samples, LOOKED_FOR):
        what, remedy = f'image of {found.path}', f'check {where}.data_prefix.img'
        check_path(sample['img_path'], what, osp.isfile, remedy)
    return samples, found.used


def _listed_by_type(where: str, dataset: dict) -> Tuple[List[dict], int]:
    """The samples of a data set of mmseg, which lists a folder and opens no file."""
    part = dict(copy.deepcopy(dict(dataset)), pipeline=[], serialize_data=False, lazy_init=False)
    try:
        samples = DATASETS.build(part).data_list
    except Exception as error:  # whatever a data set raises
        raise UsageError(
            f'the data set {where} cannot be built: {first_line(error)}; check its paths'
        ) from error
    if not samples:
        raise UsageError(
            f'{where} finds no image in its folder; check {where}.data_prefix and img_suffix'
        )
    for sample in spread(samples, LOOKED_FOR):
        for key in ('img_path', 'seg_map_path'):
            if sample.get(key):
                what = f'file of {where}'
                check_path(sample[key], what, osp.isfile, f'check {where}.data_prefix.{key}')
    return samples, len(samples)


def decode(where: str, dataset: dict, samples: List[dict]) -> Dict[str, np.ndarray]:
    """Load samples with the loaders of a data set's pipeline.

    Args:
        where: dotted key of the data set.
        dataset: its config.
        samples: with ``img_path``, and ``seg_map_path`` where there is a label map.

    Returns:
        The values that each label map has, by its path.

    Raises:
        UsageError: a file does not decode.
    """
    steps = [step for step in dataset.get('pipeline') or () if _reads_a_file(step)]
    if not steps:
        steps = [dict(type='LoadImageFromFile')]
    loaders = [TRANSFORMS.build(copy.deepcopy(step)) for step in steps]
    values: Dict[str, np.ndarray] = {}
    for sample in samples:
        results = dict(sample, seg_fields=[])
        for step, loader in zip(steps, loaders):
            of_labels = type_name(step) == 'LoadAnnotations'
            if of_labels and not sample.get('seg_map_path'):
                continue
            path = sample['seg_map_path' if of_labels else 'img_path']
            try:
                results = loader(results)
                if results is None:  # how a loader that ignores faults tells of one
                    raise ValueError('it is empty')
            except Exception as error:  # whatever a decoder raises
                what = 'label map' if of_labels else 'image'
                raise UsageError(
                    f'{what} {path} ({where}) cannot be loaded ({first_line(error)}); '
                    'if it is damaged, fetch it again or remove it from the data'
                ) from error
        if 'gt_seg_map' in results:
            values[sample['seg_map_path']] = np.unique(results['gt_seg_map'])
    return values


def _reads_a_file(step: Any) -> bool:
    return isinstance(step, dict) and type_name(step) in ('LoadImageFromFile', 'LoadAnnotations')


def _check_labels(cfg: Config, where: str, values: Dict[str, np.ndarray]) -> None:
    for head, count in heads(cfg):
        for path, found in values.items():
            beyond = found[(found >= count) & (found != IGNORED)]
            if count > 1 and beyond.size:
                raise UsageError(
                    f'label map {path} ({where}) holds class {beyond[0]} where {head}.num_classes '
                    f'is {count}, so that 0 to {count - 1} are classes; check '
                    f'{where}.reduce_zero_label, {where}.metainfo.classes and the heads'
                )
