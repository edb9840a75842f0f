"""Annotation files: COCO's, checked while they are read, and VOC's."""

import contextlib
import os.path as osp
from collections import Counter
from typing import Any, Dict, Iterator, List, Sequence
from unittest.mock import patch
from xml.etree import ElementTree

from ..engine.errors import UsageError
from .report import Report, explained, some

NEEDED = {
    'images': ['id', 'file_name', 'width', 'height'],
    'categories': ['id', 'name'],
    'annotations': ['id', 'image_id', 'category_id', 'bbox', 'area'],
}
"""Keys of each entry that mmdet reads."""

WHY = {
    'segmentation': ', and the pipeline loads masks',
    'iscrowd': ', which the evaluation reads',
}
"""Reasons for keys that not every run needs."""


@contextlib.contextmanager
def checked_reading(inherited: bool, *more: str) -> Iterator[Dict[str, int]]:
    """Check each COCO JSON that is read meanwhile; yields the numbers of images by path.

    pycocotools drops one of two annotations of one id in silence and ends in a traceback if a key
    is missing; mmdet numbers the labels in the order of the file.

    Args:
        inherited: the classes are those of COCO itself, more than a part of it may have.
        more: keys that every annotation needs for this run.

    Raises:
        UsageError: an entry or category is missing, ambiguous, or in another order than the
            classes.
    """
    try:
        from pycocotools.coco import COCO
    except ImportError:  # segmentors and classifiers do without
        yield {}
        return
    images: Dict[str, int] = {}
    read, numbers = COCO.__init__, COCO.getCatIds
    needed = dict(NEEDED, annotations=[*NEEDED['annotations'], *more])

    def checked_read(self: Any, annotation_file: Any = None) -> None:
        self.file, self.createIndex = str(annotation_file), dict  # the index waits for the check
        fault = f'{self.file} is not a valid COCO annotation file'
        remedy = 'it needs images, annotations and categories'
        with explained(fault, remedy) if osp.isfile(self.file) else contextlib.nullcontext():
            read(self, annotation_file)
        del self.createIndex
        if type(self).__name__ == 'COCO':  # files of panoptic segmentation have other entries
            _check_entries(self.file, self.dataset, needed)
            images[self.file] = len(self.dataset['images'])
        self.createIndex()

    def checked_numbers(self: Any, catNms: Sequence[str] = (), *others: Any) -> List[int]:
        found, classes = numbers(self, catNms, *others), list(catNms)
        listed = [self.cats[number]['name'] for number in found]
        if type(self).__name__ == 'COCO' and classes != listed:
            if classes and not (inherited and listed and listed == classes[: len(listed)]):
                _refuse_categories(self, classes, listed)
        return found

    with patch.multiple(COCO, __init__=checked_read, getCatIds=checked_numbers):
        yield images


def _check_entries(path: str, content: Dict[str, Any], needed: Dict[str, List[str]]) -> None:
    for key, names in needed.items():
        entries = content.get(key) or ()
        if not entries and key != 'annotations':  # files of test images have none
            raise UsageError(f'{path} is not a valid COCO annotation file: it has no {key}')
        for place, entry in enumerate(entries):
            for name in names:
                if not entry.get(name) and entry.get(name) != 0:
                    which = entry.get('id', f'number {place} of the list')
                    raise UsageError(
                        f'{path}: {key[:-1]} {which} has no {name}{WHY.get(name, "")}; add it'
                    )
            if key == 'annotations' and len(entry['bbox']) != 4:
                raise UsageError(
                    f'{path}: annotation {entry["id"]} has the bbox {entry["bbox"]}; set it to '
                    'the four numbers x, y, width and height'
                )
        unique = 'name' if key == 'categories' else 'id'
        for value, count in Counter(entry[unique] for entry in entries).most_common(1):
            if count > 1:
                raise UsageError(
                    f'{path}: {count} {key} have the {unique} {value!r}; give each its own'
                )


def _refuse_categories(coco: Any, classes: List[str], listed: List[str]) -> None:
    names = [category['name'] for category in coco.dataset['categories']]
    absent = [repr(name) for name in classes if name not in names]
    if absent:
        raise UsageError(
            f'class {some(absent)} of metainfo.classes is not a category of {coco.file}, which '
            f'has {some(list(map(repr, names)), 100)}; names must match exactly'
        )
    raise UsageError(
        f'{coco.file} lists the categories in the order ({some(listed, 100)}), and '
        f'metainfo.classes in the order ({some(classes, 100)}): mmdet numbers labels in the '
        'order of the file, so names would be swapped; set metainfo.classes in that order'
    )


def check_voc(where: str, dataset: Any, infos: Sequence[dict], report: Report) -> None:
    """Report which boxes of VOC's XML files mmdet's XMLDataset drops, of some of its images.

    Raises:
        UsageError: a name differs from that of a class only in case.
    """
    classes = {name.lower(): name for name in dataset.metainfo['classes']}
    dropped, others = 0, set()
    for info in infos:
        dropped -= sum(not instance['ignore_flag'] for instance in info['instances'])
        for entry in ElementTree.parse(info['xml_path']).getroot().iter('object'):
            name = entry.findtext('name', '').strip()
            dropped += entry.findtext('difficult') != '1'
            if name in classes.values():
                continue
            others.add(name)
            if name.lower() in classes:
                raise UsageError(
                    f'{info["xml_path"]} has an object {name!r}, and {where} the class '
                    f'{classes[name.lower()]!r}: mmdet drops the object; names must match exactly'
                )
    if dropped > 0:
        why = f'{some(sorted(others))} are not classes' if others else 'bbox_min_size'
        report.warnings.append(f'{where} drops {dropped} boxes of a sample of images: {why}')
