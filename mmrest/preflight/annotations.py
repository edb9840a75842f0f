"""Checks of annotation files of COCO and VOC, while mmdet reads them."""

import contextlib
import os.path as osp
from collections import Counter
from typing import Any, Dict, Iterator, List, NamedTuple, Sequence

from ..errors import UsageError, some
from .findings import explained

NEEDED = {
    'images': ['id', 'file_name', 'width', 'height'],
    'categories': ['id', 'name'],
    'annotations': ['id', 'image_id', 'category_id', 'bbox', 'area'],
}
"""Keys of each entry that mmdet reads."""


class Read(NamedTuple):
    """Counts of images and objects that datasets have read, by path of the annotation file.

    Attributes:
        images: number of images.
        unknown: names of VOC's objects that are not classes, which mmdet drops.
        small: number of VOC's objects below ``bbox_min_size``.
    """

    images: Dict[str, int]
    unknown: Dict[str, Counter]
    small: Counter

    def warnings(self, where: str, dataset: Any) -> Iterator[str]:
        """Yield warnings about objects of a dataset that are not used."""
        path = str(getattr(dataset, 'ann_file', None))
        unknown, small = self.unknown.get(path), self.small[path]
        if unknown:
            names = [f'{name!r} ({count})' for name, count in unknown.most_common()]
            yield f'{where} drops {sum(unknown.values())} objects of other classes: {some(names)}'
        if small:
            yield f'{where} ignores {small} boxes below filter_cfg.bbox_min_size'
        metainfo = getattr(dataset, 'metainfo', None) or {}
        kind = metainfo.get('dataset_type')
        if kind in ('VOC2007', 'VOC2012') and list(metainfo['classes']) != list(
            type(dataset).METAINFO['classes']
        ):
            yield (
                f"{where}: mmdet's VOCMetric prints the classes of Pascal VOC, because the path "
                f'contains {kind}, and fails with more than 20; rename the folder'
            )


@contextlib.contextmanager
def checked_reading(masks: bool = False, evaluated: bool = False) -> Iterator[Read]:
    """Check each COCO JSON and VOC XML that mmdet reads in this context; yield what was read.

    pycocotools silently drops one of two annotations with the same id, and raises a traceback if a
    key is missing. mmdet numbers the labels in the order of the JSON, and drops objects of an XML
    whose name is not a class.

    Args:
        masks: every annotation of the classes needs a segmentation.
        evaluated: every annotation needs ``iscrowd``.

    Raises:
        UsageError: an entry or category is missing, ambiguous, or in another order than the
            classes; a name differs from a class only in case or space; a box is not in its image.
    """
    found = Read({}, {}, Counter())
    try:
        from mmdet.datasets.api_wrappers import COCO
    except ImportError:  # segmentors and classifiers work without mmdet
        yield found
        return
    read, index, numbers = COCO.__init__, COCO.createIndex, COCO.get_cat_ids
    needed = [*NEEDED['annotations'], *['iscrowd'] * evaluated]

    def checked_read(self: Any, annotation_file: Any = None) -> None:
        self.file = str(annotation_file)
        fault = f'{annotation_file} is not a valid COCO annotation file'
        remedy = 'it needs images, annotations and categories'
        with explained(fault, remedy) if osp.isfile(self.file) else contextlib.nullcontext():
            read(self, annotation_file)

    def checked_index(self: Any) -> None:
        if type(self) is COCO:  # files of panoptic segmentation have other entries
            _check_entries(self.file, self.dataset, dict(NEEDED, annotations=needed))
            found.images[self.file] = len(self.dataset['images'])
        index(self)

    def checked_numbers(self: Any, cat_names: Sequence[str] = (), **others: Any) -> List[int]:
        labels = numbers(self, cat_names, **others)
        listed = [self.cats[number]['name'] for number in labels]
        if type(self) is COCO and cat_names:
            names = [category['name'] for category in self.dataset['categories']]
            _check_categories(self.file, list(cat_names), listed, names)
        for entry in self.anns.values() if masks and type(self) is COCO else ():
            if not entry.get('segmentation') and entry['category_id'] in labels:
                raise UsageError(
                    f'{self.file}: annotation {entry["id"]} has no segmentation, and the pipeline '
                    'loads masks; add it'
                )
        return labels

    COCO.__init__, COCO.createIndex = checked_read, checked_index
    COCO.get_cat_ids = checked_numbers
    try:
        with _checked_xml(found):
            yield found
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
                    why = ', which the evaluation reads' if name == 'iscrowd' else ''
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


@contextlib.contextmanager
def _checked_xml(found: Read) -> Iterator[None]:
    """Check each of VOC's XML files that mmdet reads in this context."""
    from mmdet.datasets import XMLDataset

    parse, instances = XMLDataset.parse_data_info, XMLDataset._parse_instance_info
    xml_path = ''

    def checked_info(self: Any, img_info: Dict[str, Any]) -> Dict[str, Any]:
        nonlocal xml_path
        xml_path, path = img_info['xml_path'], str(self.ann_file)
        fault = f'{xml_path} (of {path}) cannot be read'
        with explained(fault, 'correct the file, or remove it from the list'):
            info = parse(self, img_info)
        found.images[path] = found.images.get(path, 0) + 1
        for left, top, right, bottom in (i['bbox'] for i in info['instances']):
            across = min(right, info['width']) - max(left, 0)
            down = min(bottom, info['height']) - max(top, 0)
            if across < 0 or down < 0:
                raise UsageError(
                    f'{xml_path} has the box {left}, {top}, {right}, {bottom} (xmin, ymin, '
                    f'xmax, ymax, less 1), no part of which is in the image of {info["width"]} x '
                    f'{info["height"]} pixels; correct or remove it'
                )
        return info

    def checked_instances(self: Any, tree: Any, *args: Any, **kwargs: Any) -> List[dict]:
        path, classes = str(self.ann_file), self.metainfo['classes']
        similar = {name.lower(): name for name in classes}
        hard = 0
        for entry in tree.findall('object'):
            name = entry.findtext('name', '')
            if name in classes:
                hard += entry.findtext('difficult') == '1'
                continue
            found.unknown.setdefault(path, Counter())[name] += 1
            near = similar.get(name.strip().lower())
            if near is not None:
                raise UsageError(
                    f'{xml_path} has an object {name!r}, but metainfo.classes the class '
                    f'{near!r}: mmdet drops the object; names must match exactly'
                )
        kept = instances(self, tree, *args, **kwargs)
        found.small[path] += sum(instance['ignore_flag'] for instance in kept) - hard
        return kept

    XMLDataset.parse_data_info, XMLDataset._parse_instance_info = checked_info, checked_instances
    try:
        yield
    finally:
        XMLDataset.parse_data_info, XMLDataset._parse_instance_info = parse, instances
