"""Checks of annotation files of COCO and VOC, while mmdet reads them."""

import contextlib
import math
import os.path as osp
from collections import Counter
from typing import Any, Dict, Iterator, List
from xml.etree import ElementTree

from mmengine.fileio import get_local_path

from ..errors import UsageError, explained, some

GIVEN = 'set', lambda value: value or value == 0
SIZE = 'a positive number', lambda value: isinstance(value, (int, float)) and value > 0
NUMBER = 'a number', lambda value: isinstance(value, (int, float)) and math.isfinite(value)
BOX = (
    'the four numbers x, y, width and height',
    lambda box: isinstance(box, list) and len(box) == 4 and all(map(NUMBER[1], box)),
)
"""Each of the four: valid values in words, and a function that returns True for one."""

NEEDED = {
    'images': dict(id=GIVEN, file_name=GIVEN, width=SIZE, height=SIZE),
    'categories': dict(id=GIVEN, name=GIVEN),
    'annotations': dict(id=GIVEN, image_id=GIVEN, category_id=GIVEN, bbox=BOX, area=NUMBER),
}
"""Keys of each entry that mmdet reads, and their values."""

IGNORED, EMPTY, NO_POLYGON = USUAL = (
    'crowds, ignored, difficult, or below filter_cfg.bbox_min_size',
    'area 0, a side below 1 pixel or outside the image',
    'no polygon of 3 points or more',
)
"""Reasons why mmdet does not use an object; sound files have a few of each."""

MAX_LOST = 0.05
"""Share of unused objects from which a file is suspicious; 1% of COCO's are crowds."""


class FileCounts:
    """Counts of an annotation file that a dataset has read."""

    def __init__(self) -> None:
        self.images = 0
        self.objects = 0  # of the classes
        self.unknown: Counter = Counter()  # names or numbers of objects that are not classes
        self.lost: Counter = Counter()  # objects of the classes that are not used, by reason

    @property
    def used(self) -> int:
        """Number of objects of the classes that are used."""
        return self.objects - sum(self.lost.values())

    def warnings(self) -> Iterator[str]:
        """Yield warnings about objects that the dataset drops or ignores."""
        if self.unknown:
            names = [f'{name!r} ({count})' for name, count in self.unknown.most_common()]
            yield f'drops {sum(self.unknown.values())} objects of other classes: {some(names)}'
        count = self.objects - self.used
        reasons = some(f'{reason} ({count:,})' for reason, count in self.lost.most_common())
        if self.lost.keys() - USUAL or count > MAX_LOST * self.objects:
            yield (
                f'does not use {count:,} of the {self.objects:,} objects of its classes: '
                f'{reasons}; correct the annotations if that is not intended'
            )


@contextlib.contextmanager
def checked_reading(masks: bool = False) -> Iterator[Dict[str, FileCounts]]:
    """Check the files of each CocoDataset and XMLDataset that is built in this context.

    pycocotools silently drops one of two images with the same id, and raises a traceback if a key
    is missing. mmdet numbers the labels in the order of the JSON, and drops objects of an XML
    whose name is not a class.

    Args:
        masks: the pipeline loads masks, so every annotation of the classes needs a segmentation.

    Yields:
        Counts by file.

    Raises:
        UsageError: an entry or category is missing, ambiguous, or in a different order from the
            classes.
    """
    counts: Dict[str, FileCounts] = {}
    try:
        from mmdet.datasets import CocoDataset, XMLDataset
        from mmdet.datasets.api_wrappers import COCO
    except ImportError:  # segmentors and classifiers work without mmdet
        yield counts
        return

    class CheckedCOCO(COCO):
        def __init__(self, annotation_file: Any = None) -> None:
            self.file = str(annotation_file)
            fault = f'{annotation_file} is not a valid COCO annotation file'
            with explained(fault) if osp.isfile(self.file) else contextlib.nullcontext():
                super().__init__(annotation_file)

        def createIndex(self) -> None:
            _check_entries(self.file, self.dataset)
            super().createIndex()

        def get_cat_ids(self, cat_names: Any = (), *args: Any, **kwargs: Any) -> List[int]:
            numbers = super().get_cat_ids(cat_names, *args, **kwargs)
            if cat_names:
                _check_categories(self, list(cat_names), numbers)
            counts[self.file] = _read_objects(self, numbers, masks)
            return numbers

    parse = XMLDataset.parse_data_info

    def checked_parse(self: Any, img_info: Dict[str, Any]) -> Dict[str, Any]:
        path, file = img_info['xml_path'], counts.setdefault(str(self.ann_file), FileCounts())
        with explained(f'{path} (of {self.ann_file}) cannot be read'):
            info = parse(self, img_info)
        with get_local_path(path, backend_args=self.backend_args) as local:
            names = [node.findtext('name', '') for node in ElementTree.parse(local).iter('object')]
        file.unknown.update(name for name in names if name not in self.metainfo['classes'])
        file.images += 1
        file.objects += len(info['instances'])
        file.lost[IGNORED] += sum(instance['ignore_flag'] for instance in info['instances'])
        return info

    # Not those of panoptic files, which have other entries.
    owners = (CocoDataset, *CocoDataset.__subclasses__())
    owners = [owner for owner in owners if vars(owner).get('COCOAPI') is COCO]
    try:
        for owner in owners:
            owner.COCOAPI = CheckedCOCO
        XMLDataset.parse_data_info = checked_parse
        yield counts
    finally:
        for owner in owners:
            owner.COCOAPI = COCO
        XMLDataset.parse_data_info = parse


def _check_entries(path: str, content: Dict[str, Any]) -> None:
    for key, fields in NEEDED.items():
        entries = content.get(key) or ()
        if not entries and key != 'annotations':  # files of test images have none
            raise UsageError(f'{path} is not a valid COCO annotation file: it has no {key}')
        for name, (meant, is_meant) in fields.items():
            for place, entry in enumerate(entries):
                if not is_meant(entry.get(name)):
                    raise UsageError(
                        f'{path}: {name} of entry {entry.get("id", place)} of {key} is '
                        f'{entry.get(name)!r}, but must be {meant}'
                    )
        unique = 'name' if key == 'categories' else 'id'
        for value, count in Counter(entry[unique] for entry in entries).most_common(1):
            if count > 1:
                raise UsageError(
                    f'{path}: {count} {key} have the {unique} {value!r}; make it unique'
                )


def _check_categories(coco: Any, classes: List[str], labels: List[int]) -> None:
    names = [category['name'] for category in coco.dataset['categories']]
    known = set(names)  # there may be thousands
    absent = [repr(name) for name in classes if name not in known]
    if absent:
        raise UsageError(
            f'class {some(absent)} of metainfo.classes is not a category of {coco.file}, which '
            f'has {some(map(repr, names), 100)}; names must match exactly'
        )
    listed = [coco.cats[label]['name'] for label in labels]
    if listed != classes:
        raise UsageError(
            f'{coco.file} lists the categories in the order ({some(listed, 100)}), but '
            f'metainfo.classes in the order ({some(classes, 100)}): mmdet numbers labels in the '
            'order of the file, so names would be swapped; set metainfo.classes in that order'
        )


def _read_objects(coco: Any, labels: List[int], masks: bool) -> FileCounts:
    """Count the objects of a COCO JSON, and check their masks."""
    file, used = FileCounts(), set(labels)
    file.images = len(coco.imgs)
    for entry in coco.anns.values():
        label, image = entry['category_id'], coco.imgs.get(entry['image_id'])
        if label not in coco.cats:
            file.unknown[label] += 1
        if label not in used:
            continue
        file.objects += 1
        x, y, w, h = entry['bbox']
        if image is None:
            kind = type(entry['image_id']).__name__
            file.lost[f'image_id ({kind}) that is not the id of an image'] += 1
        elif entry.get('iscrowd') or entry.get('ignore'):
            file.lost[IGNORED] += 1
        elif (
            entry['area'] <= 0
            or min(w, h) < 1
            or not (-w < x < image['width'] and -h < y < image['height'])
        ):
            file.lost[EMPTY] += 1
        elif masks:
            _check_mask(coco.file, entry, image)
            mask = entry['segmentation']
            if isinstance(mask, list) and not any(len(p) >= 6 and len(p) % 2 == 0 for p in mask):
                file.lost[NO_POLYGON] += 1
    return file


def _check_mask(file: str, entry: Dict[str, Any], image: Dict[str, Any]) -> None:
    mask, fault = entry.get('segmentation'), ''
    if not mask:
        fault = 'no segmentation, and the pipeline loads masks; add it, or train only on boxes'
    elif isinstance(mask, dict) and mask.get('size') != [image['height'], image['width']]:
        fault = (  # mmdet would scramble the mask
            f'an RLE of size {mask.get("size")}, but [height, width] of its image is '
            f'[{image["height"]}, {image["width"]}]; correct the size, and encode the mask in '
            'column-major order'
        )
    elif isinstance(mask, dict) and isinstance(mask.get('counts'), list):
        covered, pixels = sum(mask['counts']), image['height'] * image['width']
        if covered != pixels:  # pycocotools would wait forever
            fault = f'an RLE whose counts sum to {covered}, but its image has {pixels} pixels'
    elif isinstance(mask, list) and not all(map(_is_polygon, mask)):
        fault = (
            f'the segmentation {str(mask)[:40]}; set it to a list of polygons '
            '[[x1, y1, x2, y2, ...]] of numbers'
        )
    if fault:
        raise UsageError(f'{file}: annotation {entry["id"]} has {fault}')


def _is_polygon(polygon: Any) -> bool:
    try:
        return math.isfinite(sum(polygon))  # faster than each number
    except TypeError:  # None, text, or a list of lists
        return False
