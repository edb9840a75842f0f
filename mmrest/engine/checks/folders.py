"""Data sets of mmpretrain: folders of images, each of a class, or lists of images with labels."""

import copy
import os
import os.path as osp
from typing import Any, Dict, Iterator, List, Optional, Tuple

from mmengine.config import Config
from mmengine.registry import DATASETS

from ..arguments import find_type
from ..config import dicts, first_line, type_name
from ..errors import UsageError
from .classes import heads
from .facts import Fact, Facts
from .files import DATA_REMEDY, check_path, is_local
from .pictures import DECODED, decode, spread


def check_folders(
    cfg: Config, phases: Tuple[str, ...], thorough: bool = False
) -> Tuple[Facts, Dict[str, int]]:
    """Make sure that the classes of data sets and network are the same, and that images decode.

    Args:
        cfg: config of the run.
        phases: which of 'train', 'val' and 'test' it goes through.
        thorough: list all images of the folders, which takes a while for those of ImageNet.

    Returns:
        Facts, and the number of samples of each data set that was listed, by its dotted key.

    Raises:
        UsageError: a folder does not exist, its classes are not those of another data set of the
            run, the network or the list of names, or an image is missing or does not decode.
    """
    facts: Facts = []
    counts: Dict[str, int] = {}
    first: Optional[Tuple[str, List[str]]] = None
    for where, part, dataset in _data_sets(cfg, phases):
        root = dataset.img_prefix
        check_path(root, f'data folder ({where})', osp.isdir, DATA_REMEDY)
        labelled = dataset.with_label and not dataset.ann_file
        classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
        if labelled:
            _check_classes(cfg, where, root, classes, dataset.CLASSES)
            first = first or (root, classes)
            _check_same(first, root, classes)
        if thorough or not labelled:
            images, labels = _listed(where, dataset)
            counts[where] = len(images)
            _check_labels(cfg, where, max(labels, default=0))
        else:
            images = [_any_image(dataset, osp.join(root, name)) for name in classes]
            images = [image for image in images if image is not None]
        if not images:
            raise UsageError(f'{where} holds no image: none of its files in {root} is one')
        decoded = spread(images, DECODED)
        decode(where, part, [dict(img_path=path) for path in decoded])
        found = f'{len(classes)} folders of classes; ' if labelled else ''
        found += f'{counts[where]:,} images; ' if where in counts else ''
        facts.append(Fact(f'images of {where}', f'{found}{len(decoded)} decoded'))
    return facts, counts


def _data_sets(cfg: Config, phases: Tuple[str, ...]) -> Iterator[Tuple[str, dict, Any]]:
    """The data sets of this kind: dotted key, config, and the data set with nothing listed yet."""
    for phase in phases:
        name = f'{phase}_dataloader'
        for where, part in dicts(cfg.get(name), name):
            bases = getattr(find_type(type_name(part)), '__mro__', ())
            if is_local(part) and any(
                (base.__name__, base.__module__.partition('.')[0])
                == ('CustomDataset', 'mmpretrain')
                for base in bases
            ):
                lazy = dict(copy.deepcopy(dict(part)), pipeline=[], lazy_init=True)
                try:
                    yield where, part, DATASETS.build(lazy)
                except Exception as error:  # whatever a data set raises
                    raise UsageError(
                        f'the data set {where} cannot be built: {first_line(error)}'
                    ) from error


def _check_classes(
    cfg: Config, where: str, root: str, classes: List[str], names: Optional[List[str]]
) -> None:
    if names is not None and len(names) != len(classes):
        raise UsageError(
            f'{root} holds {len(classes)} folders, one a class, but {where} has {len(names)} '
            f'names of classes; give the data of these classes, or set {where}.type=CustomDataset '
            'and no metainfo for those of the folders'
        )
    for what, count in _class_counts(cfg):
        if count != len(classes):
            raise UsageError(
                f'{what} is {count}, but {root} holds {len(classes)} folders, one a class; '
                f'set {what}={len(classes)}'
            )


def _class_counts(cfg: Config) -> Iterator[Tuple[str, int]]:
    """How many classes the parts of a classifier are for, by dotted key."""
    yield from ((f'{head}.num_classes', count) for head, count in heads(cfg))
    for where, parent in (('', cfg), ('model.', cfg.model)):
        count = (parent.get('data_preprocessor') or {}).get('num_classes')
        if count is not None:  # of labels that it mixes
            yield f'{where}data_preprocessor.num_classes', count


def _check_same(first: Tuple[str, List[str]], root: str, classes: List[str]) -> None:
    """The n-th folder is class n: with other folders, other numbers would mean the same class."""
    differing = sorted(set(first[1]).symmetric_difference(classes))
    if differing:
        raise UsageError(
            f'{root} does not hold the same classes as {first[0]}: {differing[0]} is in one of '
            'them only; make the same folders in both, empty ones where there is no image'
        )


def _listed(where: str, dataset: Any) -> Tuple[List[str], List[int]]:
    """Paths and labels of all images."""
    try:
        dataset.full_init()
    except Exception as error:  # whatever a data set raises
        raise UsageError(f'{where} cannot be listed: {first_line(error)}') from error
    samples = [dataset.get_data_info(index) for index in range(len(dataset))]
    return [s['img_path'] for s in samples], [s.get('gt_label', 0) for s in samples]


def _check_labels(cfg: Config, where: str, label: int) -> None:
    for what, count in _class_counts(cfg):
        if label >= count:
            raise UsageError(
                f'{where} has the label {label} where {what} is {count}, so that 0 to '
                f'{count - 1} are classes; set {what}, or mend the list of images'
            )


def _any_image(dataset: Any, folder: str) -> Optional[str]:
    """Path of one image in a folder and those in it, without listing the others."""
    for place, _, names in os.walk(folder):
        for name in names:
            if dataset.is_valid_file(name):
                return osp.join(place, name)
    return None
