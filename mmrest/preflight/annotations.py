"""Checks of annotation files of COCO and VOC, while mmdet reads them."""

import contextlib
import os.path as osp
from collections import Counter, defaultdict
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

from ..errors import UsageError, explained, some

NEEDED = {
    'images': ['id', 'file_name', 'width', 'height'],
    'categories': ['id', 'name'],
    'annotations': ['id', 'image_id', 'category_id', 'bbox', 'area'],
}
"""Keys of each entry that mmdet reads."""

Methods = Iterator[Tuple[type, str, Callable]]


class Read:
    """Counts of an annotation file that a dataset has read.

    Attributes:
        images: number of images.
        unknown: names or numbers of objects that are not classes, which mmdet drops.
        small: number of VOC's objects below ``bbox_min_size``.
    """

    def __init__(self) -> None:
        self.images = self.small = 0
        self.unknown: Counter = Counter()


@contextlib.contextmanager
def checked_reading(masks: bool = False, evaluated: bool = False) -> Iterator[Dict[str, Read]]:
    """Check each COCO JSON and VOC XML that mmdet reads in this context; yield path -> counts.

    pycocotools silently drops one of two annotations with the same id, and raises a traceback if a
    key is missing. mmdet numbers the labels in the order of the JSON, and drops objects of an XML
    whose name is not a class.

    Args:
        masks: every annotation of the classes needs a segmentation.
        evaluated: every annotation needs ``iscrowd``.

    Raises:
        UsageError: an entry or category is missing, ambiguous, or in a different order from the
            classes; a name differs from a class only in case or space; a box is not in its image.
    """
    found: Dict[str, Read] = defaultdict(Read)
    with contextlib.ExitStack() as originals:
        with contextlib.suppress(ImportError):  # segmentors and classifiers work without mmdet
            for owner, name, method in (*_of_coco(found, masks, evaluated), *_of_voc(found)):
                originals.callback(setattr, owner, name, getattr(owner, name))
                setattr(owner, name, method)
        yield found


def _of_coco(found: Dict[str, Read], masks: bool, evaluated: bool) -> Methods:
    """Yield class, name and replacement of mmdet's methods that read a JSON."""
    from mmdet.datasets.api_wrappers import COCO

    read, index, numbers = COCO.__init__, COCO.createIndex, COCO.get_cat_ids
    needed = dict(NEEDED, annotations=[*NEEDED['annotations'], *['iscrowd'] * evaluated])

    def checked_read(self: Any, annotation_file: Any = None) -> None:
        self.file = str(annotation_file)
        fault = f'{annotation_file} is not a valid COCO annotation file'
        remedy = 'it needs images, annotations and categories'
        with explained(fault, remedy) if osp.isfile(self.file) else contextlib.nullcontext():
            read(self, annotation_file)

    def checked_index(self: Any) -> None:
        if type(self) is COCO:  # files of panoptic segmentation have other entries
            _check_entries(self.file, self.dataset, needed)
            found[self.file].images = len(self.dataset['images'])
        index(self)
        if type(self) is COCO:
            numbered = (entry['category_id'] for entry in self.anns.values())
            found[self.file].unknown.update(n for n in numbered if n not in self.cats)

    def checked_numbers(self: Any, cat_names: Sequence[str] = (), **others: Any) -> List[int]:
        labels = numbers(self, cat_names, **others)
        if type(self) is COCO and cat_names:
            _check_categories(self, list(cat_names), labels)
        for entry in self.anns.values() if masks and type(self) is COCO else ():
            if not entry.get('segmentation') and entry['category_id'] in labels:
                raise UsageError(
                    f'{self.file}: annotation {entry["id"]} has no segmentation, and the pipeline '
                    'loads masks; add it'
                )
        return labels

    yield COCO, '__init__', checked_read
    yield COCO, 'createIndex', checked_index
    yield COCO, 'get_cat_ids', checked_numbers


def _check_entries(path: str, content: Dict[str, Any], needed: Dict[str, List[str]]) -> None:
    for key, names in needed.items():
        entries = content.get(key) or ()
        if not entries and key != 'annotations':  # files of test images have none
            raise UsageError(f'{path} is not a valid COCO annotation file: it has no {key}')
        for place, entry in enumerate(entries):
            for name in names:
                if not entry.get(name) and entry.get(name) != 0:
                    kind = key.replace('ies', 'ys')[:-1]  # image, category or annotation
                    which = entry.get('id', f'number {place} of the list')
                    why = ', which the evaluation reads' if name == 'iscrowd' else ''
                    raise UsageError(f'{path}: {kind} {which} has no {name}{why}; add it')
            if key == 'annotations' and not _is_box(entry['bbox']):
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


def _is_box(bbox: Any) -> bool:
    return len(bbox) == 4 and all(isinstance(number, (int, float)) for number in bbox)


def _check_categories(coco: Any, classes: List[str], labels: List[int]) -> None:
    names = [category['name'] for category in coco.dataset['categories']]
    absent = [repr(name) for name in classes if name not in names]
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


def _of_voc(found: Dict[str, Read]) -> Methods:
    """Yield class, name and replacement of mmdet's methods that read an XML."""
    from mmdet.datasets import XMLDataset

    parse, instances = XMLDataset.parse_data_info, XMLDataset._parse_instance_info
    xml_path = ''

    def checked_info(self: Any, img_info: Dict[str, Any]) -> Dict[str, Any]:
        nonlocal xml_path
        xml_path = img_info['xml_path']
        fault = f'{xml_path} (of {self.ann_file}) cannot be read'
        with explained(fault, 'correct the file, or remove it from the list'):
            info = parse(self, img_info)
        file = found[str(self.ann_file)]
        file.images += 1
        for left, top, right, bottom in (i['bbox'] for i in info['instances']):
            across = min(right, info['width']) - max(left, 0)
            down = min(bottom, info['height']) - max(top, 0)
            if across < 0 or down < 0:
                raise UsageError(
                    f'{xml_path} has the box {left}, {top}, {right}, {bottom} (corners, less 1), '
                    f'no part of which is in the image of {info["width"]} x {info["height"]} '
                    'pixels; correct or remove it'
                )
            file.small += min(right - left, bottom - top) < (self.bbox_min_size or 0)
        return info

    def checked_instances(self: Any, tree: Any, *args: Any, **kwargs: Any) -> List[dict]:
        classes = self.metainfo['classes']
        for name in (entry.findtext('name', '') for entry in tree.findall('object')):
            if name in classes:
                continue
            found[str(self.ann_file)].unknown[name] += 1
            for near in classes:
                if near.lower() == name.strip().lower():
                    raise UsageError(
                        f'{xml_path} has an object {name!r}, but metainfo.classes the class '
                        f'{near!r}: mmdet drops the object; names must match exactly'
                    )
        return instances(self, tree, *args, **kwargs)

    yield XMLDataset, 'parse_data_info', checked_info
    yield XMLDataset, '_parse_instance_info', checked_instances
