"""Checks of annotation files: COCO's, while mmdet reads them, and VOC's."""

import contextlib
import os.path as osp
from collections import Counter
from typing import Any, Dict, Iterator, List, Sequence
from xml.etree import ElementTree

from ..engine.errors import UsageError
from .findings import Report, explained, some

NEEDED = {
    'images': ['id', 'file_name', 'width', 'height'],
    'categories': ['id', 'name'],
    'annotations': ['id', 'image_id', 'category_id', 'bbox', 'area'],
}
"""Keys of each entry that mmdet reads."""


@contextlib.contextmanager
def checked_reading(masks: bool = False, evaluated: bool = False) -> Iterator[Dict[str, int]]:
    """Check each COCO JSON that mmdet reads in this context; yield path -> number of images.

    pycocotools silently drops one of two annotations with the same id, and raises a traceback if a
    key is missing. mmdet numbers the labels in the order of the file.

    Args:
        masks: every annotation needs a segmentation.
        evaluated: every annotation needs ``iscrowd``.

    Raises:
        UsageError: an entry or category is missing, ambiguous, or in another order than the
            classes.
    """
    try:
        from mmdet.datasets.api_wrappers import COCO
    except ImportError:  # segmentors and classifiers work without mmdet
        yield {}
        return
    images: Dict[str, int] = {}
    read, index, numbers = COCO.__init__, COCO.createIndex, COCO.get_cat_ids
    needed = [*NEEDED['annotations'], *['segmentation'] * masks, *['iscrowd'] * evaluated]

    def checked_read(self: Any, annotation_file: Any = None) -> None:
        self.file = str(annotation_file)
        fault = f'{annotation_file} is not a valid COCO annotation file'
        remedy = 'it needs images, annotations and categories'
        with explained(fault, remedy) if osp.isfile(self.file) else contextlib.nullcontext():
            read(self, annotation_file)

    def checked_index(self: Any) -> None:
        if type(self) is COCO:  # files of panoptic segmentation have other entries
            _check_entries(self.file, self.dataset, dict(NEEDED, annotations=needed))
            images[self.file] = len(self.dataset['images'])
        index(self)

    def checked_numbers(self: Any, cat_names: Sequence[str] = (), **others: Any) -> List[int]:
        found = numbers(self, cat_names, **others)
        listed = [self.cats[number]['name'] for number in found]
        if type(self) is COCO and cat_names:
            names = [category['name'] for category in self.dataset['categories']]
            _check_categories(self.file, list(cat_names), listed, names)
        return found

    COCO.__init__, COCO.createIndex = checked_read, checked_index
    COCO.get_cat_ids = checked_numbers
    try:
        yield images
    finally:
        COCO.__init__, COCO.createIndex, COCO.get_cat_ids = read, index, numbers


def _check_entries(path: str, content: Dict[str, Any], needed: Dict[str, List[str]]) -> None:
    for key, names in needed.items():
        entries = content.get(key) or ()
        if not entries and key != 'annotations':  # files of test images have none
            raise UsageError(f'{path} is not a valid COCO annotation file: it has no {key}')
        for place, entry in enumerate(entries):
            for name in names:
                value = entry.get(name)
                if not value and value != 0:
                    which = entry.get('id', f'number {place} of the list')
                    why = {
                        'segmentation': ', and the pipeline loads masks',
                        'iscrowd': ', which the evaluation reads',
                    }.get(name, '')
                    raise UsageError(f'{path}: {key[:-1]} {which} has no {name}{why}; add it')
            if key == 'annotations' and len(entry['bbox']) != 4:
                raise UsageError(
                    f'{path}: annotation {entry["id"]} has the bbox {entry["bbox"]}; set it to '
                    'the four numbers x, y, width and height'
                )
        unique = 'name' if key == 'categories' else 'id'
        for value, count in Counter(entry[unique] for entry in entries).most_common(1):
            if count > 1:
                raise UsageError(
                    f'{path}: {count} {key} have the {unique} {value!r}; make it unique'
                )


def _check_categories(path: str, classes: List[str], listed: List[str], names: List[str]) -> None:
    absent = [repr(name) for name in classes if name not in names]
    if absent:
        raise UsageError(
            f'class {some(absent)} of metainfo.classes is not a category of {path}, which has '
            f'{some(list(map(repr, names)), 100)}; names must match exactly'
        )
    if listed != classes:
        raise UsageError(
            f'{path} lists the categories in the order ({some(listed, 100)}), but '
            f'metainfo.classes in the order ({some(classes, 100)}): mmdet numbers labels in the '
            'order of the file, so names would be swapped; set metainfo.classes in that order'
        )


def check_voc(where: str, dataset: Any, infos: Sequence[dict], report: Report) -> None:
    """Report the boxes of VOC's XML files that a dataset drops.

    Args:
        where: dotted key of the dataset.
        dataset: mmdet's XMLDataset.
        infos: data infos of some of its images.
        report: receives a warning.

    Raises:
        UsageError: a name differs from a class only in case.
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
                    f'{info["xml_path"]} has an object {name!r}, but {where} the class '
                    f'{classes[name.lower()]!r}: mmdet drops the object; names must match exactly'
                )
    if dropped > 0:
        why = f'{some(sorted(others))} are not classes' if others else 'bbox_min_size'
        report.warnings.append(f'{where} drops {dropped} boxes of a sample of images: {why}')
