"""Class lists, annotations and heads that must speak of the same classes."""

import os.path as osp
from typing import Dict, Iterator, List, Optional, Tuple

from mmengine.config import Config
from mmengine.fileio import list_from_file

from ..arguments import find_type
from ..config import dicts, type_name
from ..errors import UsageError
from .annotations import Annotations, Listing
from .facts import Fact, Facts

OF_CLASSES = {'bbox_head', 'mask_head', 'decode_head', 'auxiliary_head'}
"""Heads whose num_classes is the length of the class list that a data set has by itself.

Those of panoptic segmentation, and of extra supervision, count something else.
"""


OPEN = {'language_model', 'text_encoder'}
"""Parts of networks that take classes as text and may have heads for any number of them."""


def check_classes(
    cfg: Config, phases: Tuple[str, ...], annotations: Optional[Annotations] = None
) -> Facts:
    """Make sure that class lists, annotations and heads speak of the same classes.

    Args:
        cfg: config of the run.
        phases: which of 'train', 'val' and 'test' it goes through.
        annotations: reader of the annotation files.

    Raises:
        UsageError: a class list is a bare string, a class is absent from the data, no image has
            an annotation of the classes, a head predicts another number of classes than the data
            has, or training and evaluation have different classes.
    """
    annotations = annotations or Annotations()
    stated: Dict[str, Optional[List[str]]] = {}
    facts: Facts = []
    for where, dataset in _data_sets(cfg, phases):
        classes = stated_classes(where, dataset)
        if _has_files(dataset):
            stated[where] = classes
        if classes is not None:
            facts.append(_agreed(cfg, where, dataset, classes, annotations))
    _check_same(stated)
    for where, dataset in _data_sets(cfg, phases):
        classes = _own_classes(dataset)
        if classes is not None and where in stated and stated[where] is None:
            facts.append(_agreed(cfg, where, dataset, classes, annotations, stated=False))
    return facts


def _has_files(dataset: dict) -> bool:
    return 'data_root' in dataset or 'ann_file' in dataset


def _data_sets(cfg: Config, phases: Tuple[str, ...]) -> Iterator[Tuple[str, dict]]:
    """The data sets of a run that may have classes, inside of wrappers too."""
    for phase in phases:
        name = f'{phase}_dataloader'
        for where, part in dicts(cfg.get(name), name):
            if _has_files(part) or 'metainfo' in part:
                yield where, part


def _agreed(
    cfg: Config,
    where: str,
    dataset: dict,
    classes: List[str],
    annotations: Annotations,
    stated: bool = True,
) -> Fact:
    """What is found of classes that annotations and heads agree on."""
    found = annotations.listing(where, dataset, classes)
    if found is not None:
        _check_annotated(where, found, classes, stated)
        if where.startswith('train') and found.images and not found.used:
            raise UsageError(
                f'none of the {len(found.images)} images of {found.path} has the size and an '
                f'annotation of the classes that {where} asks for; check {where}.metainfo.classes '
                f'and {where}.filter_cfg'
            )
    _check_heads(cfg, where, len(classes), stated)
    return Fact(f'classes of {where}', _shown(classes, found))


def _shown(classes: List[str], found: Optional[Listing]) -> str:
    shown = f'{len(classes)}: {", ".join(classes[:3])}{", ..." if len(classes) > 3 else ""}'
    if found is not None:
        present = len(set(classes) & set(found.categories))
        shown += f'; {present} among the categories of {found.path}'
    return shown


def _check_same(stated: Dict[str, Optional[List[str]]]) -> None:
    """All data sets of a run must state the same classes, in the same order, or none."""
    first = next((where for where, classes in stated.items() if classes is not None), None)
    for where, classes in stated.items():
        if first is not None and classes != stated[first]:
            fault = 'no classes' if classes is None else f'({", ".join(map(repr, classes))})'
            raise UsageError(
                f'{where}.metainfo states {fault}, but {first}.metainfo.classes are '
                f'({", ".join(map(repr, stated[first]))}); set the same in both, in one order'
            )


def stated_classes(where: str, dataset: dict) -> Optional[List[str]]:
    """The class list that a data set of the config states itself.

    Raises:
        UsageError: it is a string that names no file.
    """
    metainfo = dataset.get('metainfo')
    classes = metainfo.get('classes') if isinstance(metainfo, dict) else None
    if isinstance(classes, str):
        if osp.isfile(classes):
            return list_from_file(classes)
        raise UsageError(
            f'{where}.metainfo.classes is the string {classes!r}, where a list of names belongs; '
            f'write ({classes!r},), with the comma, for a single class'
        )
    return None if classes is None else list(classes)


def known_classes(where: str, dataset: dict) -> Optional[List[str]]:
    """The class list of a data set, stated or of its type; None where heads count otherwise.

    Raises:
        UsageError: see :func:`stated_classes`.
    """
    classes = stated_classes(where, dataset)
    return _own_classes(dataset) if classes is None else classes


def _own_classes(dataset: dict) -> Optional[List[str]]:
    """The class list that comes with the type of a data set; None where heads count others."""
    kind = find_type(type_name(dataset))
    metainfo = getattr(kind, 'METAINFO', None) or {}
    classes = metainfo.get('classes')
    # Panoptic heads count things and stuff, and trackers the one class that they follow.
    of_tracks = any(base.__name__ == 'BaseVideoDataset' for base in getattr(kind, '__mro__', ()))
    if not isinstance(classes, (list, tuple)) or 'thing_classes' in metainfo or of_tracks:
        return None
    return list(classes)


def _check_annotated(where: str, found: Listing, classes: List[str], stated: bool) -> None:
    absent = [name for name in classes if name not in found.categories]
    # The usual 80 of COCO may well be more than a part of its data has.
    if not absent or (not stated and len(absent) < len(classes)):
        return
    categories = ', '.join(map(repr, found.categories))
    if stated:
        raise UsageError(
            f'class {", ".join(map(repr, absent))} of {where}.metainfo.classes is not in '
            f'{found.path}; its categories are {categories}, equal to the letter'
        )
    raise UsageError(
        f'{where}.metainfo states no classes, and none of those of its type ({classes[0]!r}, ...) '
        f'is in {found.path}; set {where}.metainfo.classes to its categories, {categories}'
    )


def _check_heads(cfg: Config, where: str, count: int, stated: bool) -> None:
    if not stated and OPEN & cfg.model.keys():
        return
    whose = f'{where}.metainfo.classes' if stated else f'the class list of the type of {where}'
    for head, predicted in heads(cfg):
        if predicted != count and (stated or OF_CLASSES & set(head.split('.')[-2:])):
            raise UsageError(
                f'{head}.num_classes is {predicted}, but {whose} has {count}; '
                f'set {head}.num_classes={count}'
            )


def heads(cfg: Config) -> Iterator[Tuple[str, int]]:
    """The heads of a network that predict classes, by dotted key, and how many they do."""
    for head, part in dicts(cfg.model, 'model'):
        predicted = part.get('num_classes')
        # An RPN tells objects from background, and a head of STDC what is a boundary.
        others = 'rpn' in head or type_name(part) == 'STDCHead'
        if 'head' in head and isinstance(predicted, int) and not others:
            yield head, predicted
