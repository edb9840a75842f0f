"""COCO JSON files as mmdet's data sets and metrics read them, looked at on the way."""

import contextlib
from typing import Any, Dict, Iterator, List, NamedTuple, Sequence
from xml.etree import ElementTree

from ..engine.config import first_line
from ..engine.errors import UsageError
from .report import Report, some

NEEDED = {
    'images': ('id', 'file_name', 'width', 'height'),
    'categories': ('id', 'name'),
    'annotations': ('id', 'image_id', 'category_id', 'bbox', 'area'),
}
"""What mmdet reads of each entry."""


class Listed(NamedTuple):
    """What a file lists.

    Attributes:
        names: of the categories, by their numbers, in the order of the file.
        images: how many there are.
        annotations: how many there are.
        without_mask: numbers of the annotations without a segmentation.
        without_crowd: whether an annotation lacks ``iscrowd``, which evaluation reads.
        unusable: annotations that are a crowd or have no area, on which nothing is trained.
    """

    names: Dict[int, str]
    images: int
    annotations: int
    without_mask: List[Any]
    without_crowd: bool
    unusable: int


@contextlib.contextmanager
def watched() -> Iterator[Dict[str, Listed]]:
    """Look at each COCO JSON that is read meanwhile; yields what they list, by path.

    pycocotools drops one of two annotations of one number in silence and has a traceback for an
    entry that lacks a key.
    """
    try:
        from mmdet.datasets.api_wrappers import COCO
    except ImportError:  # segmentors and classifiers do without mmdet
        yield {}
        return
    found: Dict[str, Listed] = {}
    read, index = COCO.__init__, COCO.createIndex

    def reading(self: Any, annotation_file: Any = None) -> None:
        self.file = str(annotation_file)
        try:
            read(self, annotation_file)
        except (ValueError, AssertionError, AttributeError) as error:
            remedy = 'it needs images, annotations and categories'
            if isinstance(error, UnicodeDecodeError):
                remedy = 'set PYTHONUTF8=1 in the environment, where the locale is not UTF-8'
            raise UsageError(
                f'annotation file {annotation_file} is no COCO JSON ({first_line(error)}); '
                f'{remedy}'
            ) from error

    def indexing(self: Any) -> None:
        if type(self) is COCO and hasattr(self, 'file'):  # panoptic files list other entries
            found[self.file] = _look(self.file, self.dataset)
        index(self)

    COCO.__init__, COCO.createIndex = reading, indexing
    try:
        yield found
    finally:
        COCO.__init__, COCO.createIndex = read, index


def _look(path: str, content: Dict[str, Any]) -> Listed:
    for key, needed in NEEDED.items():
        if not content.get(key) and key != 'annotations':  # files of test images have none
            raise UsageError(f'annotation file {path} is no COCO JSON: it has no {key}')
        for place, entry in enumerate(content.get(key, ())):
            for name in needed:
                if name not in entry:
                    what = entry.get('id', f'number {place} of the list')
                    raise UsageError(f'{path}: {key[:-1]} {what} has no {name}; add it')
    images, categories = content['images'], content['categories']
    annotations = content.get('annotations', ())
    for key, entries in (('images', images), ('annotations', annotations)):
        if len({entry['id'] for entry in entries}) < len(entries):
            raise UsageError(
                f'{path}: {_first_double(entries, "id")} is the id of several {key}, of which all '
                'but one would be lost; number them anew'
            )
    if len({entry['name'] for entry in categories}) < len(categories):
        raise UsageError(
            f'{path}: several categories are called {_first_double(categories, "name")!r}; give '
            'them names of their own, or merge them'
        )
    names = {entry['id']: entry['name'] for entry in categories}
    unusable, without_mask, without_crowd = 0, [], False
    for entry in annotations:
        box = entry['bbox']
        if not isinstance(box, (list, tuple)) or len(box) != 4:
            raise UsageError(
                f'{path}: annotation {entry["id"]} has the bbox {box}, where four numbers belong '
                '(x, y, width, height); mend it or take it out'
            )
        unusable += bool(entry.get('iscrowd')) or entry['area'] <= 0
        without_crowd = without_crowd or 'iscrowd' not in entry
        if not entry.get('segmentation'):
            without_mask.append(entry['id'])
    return Listed(names, len(images), len(annotations), without_mask, without_crowd, unusable)


def _first_double(entries: Any, key: str) -> Any:
    seen = set()
    for entry in entries:
        if entry[key] in seen:
            return entry[key]
        seen.add(entry[key])
    return None


def check_categories(where: str, path: str, classes: Sequence[str], listed: Listed) -> None:
    """Make sure that every class of a data set is a category of its file.

    Raises:
        UsageError: one is not.
    """
    names = list(listed.names.values())
    absent = [repr(name) for name in classes if name not in names]
    if absent:
        raise UsageError(
            f'class {some(absent)} of {where} is not in {path}, so that labels would have other '
            f'names than theirs; its categories are {some(list(map(repr, names)), 100)}, equal to '
            'the letter: set metainfo.classes'
        )


def check_listed(where: str, dataset: Any, listed: Listed, masks: bool, evaluated: bool) -> None:
    """Make sure that a data set can be learnt from, and evaluated on.

    Args:
        where: dotted key of the data set.
        dataset: the data set, of mmdet's CocoDataset.
        listed: what its file lists.
        masks: whether its pipeline loads masks.
        evaluated: whether metrics are computed on it.

    Raises:
        UsageError: it cannot.
    """
    path, classes = dataset.ann_file, list(dataset.metainfo['classes'])
    stands = [listed.names[number] for number in dataset.cat_ids]
    if stands and stands == classes[: len(stands)] and classes == _of_type(dataset):
        classes = stands  # the usual 80 may well be more than a part of COCO has
    check_categories(where, path, classes, listed)
    if stands != classes:
        raise UsageError(
            f'{path} lists the categories in the order ({some(stands, 100)}), and {where} the '
            f'classes in the order ({some(classes, 100)}): mmdet numbers labels in the order of '
            'the file, so that names would be swapped; set metainfo.classes in the order of the '
            'file'
        )
    if listed.annotations and listed.unusable == listed.annotations:
        raise UsageError(
            f'{path}: every annotation has iscrowd 1 or an area of 0, so that {where} has nothing '
            'to learn from; set iscrowd to 0 and area to that of the object, in pixels'
        )
    if masks and listed.without_mask:
        raise UsageError(
            f'{path}: {len(listed.without_mask)} of {listed.annotations} annotations have no '
            f'segmentation (annotation {listed.without_mask[0]} is the first), and {where} loads '
            'masks; add them, or train a detector of boxes'
        )
    if evaluated and listed.without_crowd:
        raise UsageError(
            f'{path}: annotations lack iscrowd, which the evaluation reads; add "iscrowd": 0'
        )


def _of_type(dataset: Any) -> List[str]:
    return list((type(dataset).METAINFO or {}).get('classes') or ())


def check_voc(where: str, dataset: Any, infos: Any, report: Report) -> None:
    """Say which boxes of VOC's XML files a data set leaves out.

    Args:
        where: dotted key of the data set.
        dataset: the data set, of mmdet's XMLDataset.
        infos: what it knows of some of its images.
        report: a warning is added to it.

    Raises:
        UsageError: a name differs from a class by the case of its letters alone.
    """
    classes = dataset.metainfo['classes']
    by_case = {name.lower(): name for name in classes}
    written = kept = difficult = 0
    others = set()
    for info in infos:
        for entry in ElementTree.parse(info['xml_path']).getroot().iter('object'):
            name = entry.findtext('name', '').strip()
            difficult += entry.findtext('difficult') == '1'
            written += 1
            if name not in classes:
                others.add(name)
                if name.lower() in by_case:
                    raise UsageError(
                        f'{info["xml_path"]} names an object {name!r}, and {where} has the class '
                        f'{by_case[name.lower()]!r}: mmdet leaves the object out; write them '
                        'equal to the letter'
                    )
        kept += sum(not instance['ignore_flag'] for instance in info['instances'])
    if kept + difficult < written:
        why = f'{some(sorted(others))} are no classes' if others else 'bbox_min_size'
        out = written - kept - difficult
        report.warn(f'{where} leaves out {out} of {written} boxes of a sample: {why}')
