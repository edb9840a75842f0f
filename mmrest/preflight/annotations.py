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
    """Counts of an annotation file that a dataset has read."""

    def __init__(self) -> None:
        self.images = 0
        self.unknown: Counter = Counter()  # names or numbers of objects that are not classes
        self.small = 0  # VOC's objects below ``bbox_min_size``


@contextlib.contextmanager
def checked_reading(masks: bool = False, evaluated: bool = False) -> Iterator[Dict[str, Read]]:
    """Check each COCO JSON and VOC XML that mmdet reads in this context.

    pycocotools silently drops one of two annotations with the same id, and raises a traceback if a
    key is missing. mmdet numbers the labels in the order of the JSON, and drops objects of an XML
    whose name is not a class.

    Args:
        masks: every annotation of the classes needs a segmentation.
        evaluated: every annotation needs ``iscrowd``.

    Yields:
        Counts by file.

    Raises:
        UsageError: an entry or category is missing, ambiguous, or in a different order from the
            classes; a name differs from a class only in case or space.
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
        with explained(fault) if osp.isfile(self.file) else contextlib.nullcontext():
            read(self, annotation_file)

    def checked_index(self: Any) -> None:
        if type(self) is COCO:  # files of panoptic segmentation have other entries
            _check_entries(self.file, self.dataset, needed)
            file = found[self.file] = Read()
            file.images = len(self.dataset['images'])
        index(self)
        if type(self) is COCO:
            numbered = (entry['category_id'] for entry in self.anns.values())
            file.unknown.update(number for number in numbered if number not in self.cats)

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
            absent = [name for name in names if not entry.get(name) and entry.get(name) != 0]
            if absent:
                fault = f'no {absent[0]}, which mmdet reads; add it'
            elif key == 'annotations' and not _is_box(entry['bbox']):
                box = 'the four numbers x, y, width and height'
                fault = f'the bbox {entry["bbox"]}; set it to {box}'
            else:
                continue
            raise UsageError(f'{path}: entry {entry.get("id", place)} of {key} has {fault}')
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
    path = ''

    def checked_info(self: Any, img_info: Dict[str, Any]) -> Dict[str, Any]:
        nonlocal path
        path, file = img_info['xml_path'], found[str(self.ann_file)]
        with explained(f'{path} (of {self.ann_file}) cannot be read'):
            info = parse(self, img_info)
        file.images += 1
        for left, top, right, bottom in (each['bbox'] for each in info['instances']):
            file.small += min(right - left, bottom - top) < (self.bbox_min_size or 0)
        return info

    def checked_instances(self: Any, tree: Any, *args: Any, **kwargs: Any) -> List[dict]:
        classes = self.metainfo['classes']
        names = [entry.findtext('name', '') for entry in tree.findall('object')]
        for name in [name for name in names if name not in classes]:
            found[str(self.ann_file)].unknown[name] += 1
            for near in classes:
                if near.lower() == name.strip().lower():
                    raise UsageError(
                        f'{path} has an object {name!r}, but metainfo.classes the class {near!r}: '
                        'mmdet drops the object; names must match exactly'
                    )
        return instances(self, tree, *args, **kwargs)

    yield XMLDataset, 'parse_data_info', checked_info
    yield XMLDataset, '_parse_instance_info', checked_instances
