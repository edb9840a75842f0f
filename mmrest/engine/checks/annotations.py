"""Annotation files of a run, each read once: what they list, and whether a data set can use it."""

import contextlib
import gc
import json
import os.path as osp
import re
from typing import Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set

from ..arguments import find_type
from ..config import type_name
from ..errors import UsageError
from .facts import MIB
from .files import is_local

NEEDED: Dict[str, Set[str]] = {
    'images': {'id', 'file_name', 'width', 'height'},
    'annotations': {'image_id', 'category_id', 'bbox', 'area'},
    'categories': {'id', 'name'},
}
"""What mmdet's CocoDataset reads of each entry."""


class Listing(NamedTuple):
    """What a COCO JSON lists for a data set of a config.

    Attributes:
        path: of the JSON.
        categories: their names.
        images: paths of all images, relative to the folder of images.
        used: how many of the images the data set keeps; all of a file that is not read whole.
    """

    path: str
    categories: List[str]
    images: List[str]
    used: int


LARGE = 64 * MIB
"""Size of a JSON from which reading it whole would keep the person waiting who starts a run."""


class Annotations:
    """Reads the JSON files of a run.

    Args:
        whole: read large files whole too: that of COCO, 450 MB, in some ten seconds instead of
            two. Else their annotations are left to the data set, which reads them before the
            first iteration.
    """

    def __init__(self, whole: bool = True) -> None:
        self._whole = whole
        self._listings: Dict[str, Optional[Listing]] = {}

    def listing(
        self, where: str, dataset: dict, classes: Optional[Sequence[str]]
    ) -> Optional[Listing]:
        """What the annotation file of a data set lists.

        Args:
            where: dotted key of the data set.
            dataset: its config.
            classes: names of its classes; None for all categories.

        Returns:
            None for a data set that is not in COCO's format or not on this machine.

        Raises:
            UsageError: the file is no JSON, or an entry lacks what the data set reads of it.
        """
        if where not in self._listings:
            path = osp.join(dataset.get('data_root') or '', dataset.get('ann_file') or '')
            found = None
            if is_local(dataset) and osp.isfile(path) and _is_coco(dataset, path):
                with _collector_paused():
                    found = _read(where, dataset, path, classes, self._whole)
            self._listings[where] = found
        return self._listings[where]


def _is_coco(dataset: dict, path: str) -> bool:
    if not path.endswith('.json'):
        return False
    kind = find_type(type_name(dataset))
    if kind is None:  # unknown: its class list tells that there are categories
        return (dataset.get('metainfo') or {}).get('classes') is not None
    # Its children for panoptic or very many classes read other entries.
    return all(
        getattr(getattr(kind, name, None), '__qualname__', '') == f'CocoDataset.{name}'
        for name in ('load_data_list', 'parse_data_info')
    )


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Millions of small new objects would have it look for cycles all the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _read(
    where: str, dataset: dict, path: str, classes: Optional[Sequence[str]], whole: bool
) -> Listing:
    try:
        with open(path) as file:
            text = file.read()
        content = None if whole or len(text) < LARGE else _skimmed(text)
        skimmed = content is not None
        if not skimmed:
            content = json.loads(text)
        entries = {
            'categories': content['categories'],
            'images': content.get('images', []),
            'annotations': content.get('annotations', []),  # files of test images have none
        }
        for key, needed in NEEDED.items():
            for entry in entries[key]:
                if not needed <= entry.keys():
                    raise KeyError(f'{sorted(needed - entry.keys())[0]} of one of its {key}')
        if skimmed:
            return _listed(path, dict(dataset, filter_cfg=None), entries, classes)
        return _listed(path, dataset, entries, classes)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = error.args[0] if isinstance(error, KeyError) else error
        raise UsageError(
            f'annotation file {path} ({where}.ann_file) is no COCO JSON '
            f'({type(error).__name__}: {reason}); it needs images, annotations and categories'
        ) from error


def _skimmed(text: str) -> Optional[Dict[str, List[dict]]]:
    """Images and categories of a COCO JSON without its annotations, which are most of it.

    None where they are not found at once, as in a file that is cut off: then it is read whole,
    and an error says what is wrong.
    """
    if not text[-100:].rstrip().endswith('}'):
        return None
    content, decoder = {}, json.JSONDecoder()
    for key in ('images', 'categories'):
        begin = re.search(rf'"{key}"\s*:\s*(?=\[)', text)
        if begin is None:
            return None
        try:
            content[key], _ = decoder.raw_decode(text, begin.end())
        except ValueError:
            return None
        # The key may be one of something else that is listed before.
        if not all(isinstance(e, dict) and NEEDED[key] <= e.keys() for e in content[key]):
            return None
    return content


def _listed(
    path: str, dataset: dict, entries: Mapping[str, List[dict]], classes: Optional[Sequence[str]]
) -> Listing:
    of_classes = {
        category['id']
        for category in entries['categories']
        if classes is None or category['name'] in classes
    }
    annotated = {
        annotation['image_id']
        for annotation in entries['annotations']
        if annotation['category_id'] in of_classes
    }
    images = entries['images']
    rule = {} if dataset.get('test_mode') else (dataset.get('filter_cfg') or {})
    used = [
        image
        for image in images
        if (not rule.get('filter_empty_gt') or image['id'] in annotated)
        and min(image['width'], image['height']) >= rule.get('min_size', 0)
    ]
    return Listing(
        path,
        [category['name'] for category in entries['categories']],
        [image['file_name'] for image in images],
        len(used),
    )
