"""What can be known to fail before a run begins: files, class lists, heads.

Every check raises UsageError, in one line that names the culprit and what to do.
"""

import copy
import json
import os.path as osp
from typing import Any, Callable, Dict, List, Optional, Tuple

from mmengine.config import Config
from mmengine.fileio import list_from_file
from mmengine.registry import MODELS, DefaultScope

from .arguments import check_arguments
from .config import dicts, first_line, type_name
from .errors import UsageError


def check(cfg: Config, phases: Tuple[str, ...]) -> None:
    """Carry out every check.

    Args:
        cfg: config of the run.
        phases: which of 'train', 'val' and 'test' it goes through.

    Raises:
        UsageError: see the other functions of this module.
    """
    check_files(cfg, phases)
    check_classes(cfg, phases)
    check_model(cfg)
    check_arguments(cfg, phases)  # last: building the model has registered what it names


def check_files(cfg: Config, phases: Tuple[str, ...]) -> None:
    """Make sure that the data and weights that a run is about to open exist.

    Addresses of remote storage are left to their clients.

    Args:
        cfg: config of the run.
        phases: which of 'train', 'val' and 'test' it goes through.

    Raises:
        UsageError: one does not exist; the message names it and where the config says so.
    """
    for phase in phases:
        for name in (f'{phase}_dataloader', f'{phase}_evaluator'):
            for where, part in dicts(cfg.get(name), name):
                _check_data(where, part)
    if 'train' in phases:
        for where, part in dicts(cfg.model, 'model'):
            if type_name(part) in ('Pretrained', 'PretrainedInit'):
                where = f'{where}.checkpoint'
                weights = osp.expanduser(str(part.get('checkpoint')))
                _check(weights, f'pretrained weights ({where})', osp.isfile)
    _check(osp.expanduser(cfg.get('load_from') or ''), 'checkpoint', osp.isfile)


def _check_data(where: str, part: dict) -> None:
    # The data set's own client knows whether files of a remote backend exist.
    if part.get('backend_args') is not None or part.get('file_client_args') is not None:
        return
    root = part.get('data_root') or ''
    remedy = 'give --data-root DIR, or set it with --cfg-options'
    _check(root, f'data folder ({where}.data_root)', osp.isdir, remedy)
    annotations = part.get('ann_file')
    if isinstance(annotations, str) and annotations:
        path = osp.join(root, annotations)
        _check(path, f'annotation file ({where}.ann_file)', osp.isfile, remedy)
    prefixes = part.get('data_prefix')
    if isinstance(prefixes, dict):
        for key, prefix in prefixes.items():
            if isinstance(prefix, str) and prefix:
                path = osp.join(root, prefix)
                _check(path, f'data folder ({where}.data_prefix.{key})', osp.isdir, remedy)


def _check(
    path: Any, what: str, exists: Callable[[str], bool], remedy: str = 'give an existing path'
) -> None:
    if not isinstance(path, str) or not path or '://' in path or exists(path):
        return
    kind = 'folder' if exists is osp.isdir else 'file'
    fault = f'is not a {kind}' if osp.exists(path) else 'does not exist'
    raise UsageError(f'{what} {path} {fault}; {remedy}')


def check_classes(cfg: Config, phases: Tuple[str, ...]) -> None:
    """Make sure that class lists, annotations and heads speak of the same classes.

    Args:
        cfg: config of the run.
        phases: which of 'train', 'val' and 'test' it goes through.

    Raises:
        UsageError: a class list is a bare string, a class or an image is absent from the data, a
            head predicts another number of classes than the data has, or training and evaluation
            have different classes.
    """
    stated: Dict[str, Optional[List[str]]] = {}
    for phase in phases:
        name = f'{phase}_dataloader'
        for where, dataset in dicts(cfg.get(name), name):
            classes = _classes(where, dataset)
            if classes is not None:
                _check_annotated(where, dataset, classes)
                _check_heads(cfg, where, len(classes))
            if 'data_root' in dataset or 'ann_file' in dataset:
                stated[where] = classes
    _check_same(stated)


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


def _classes(where: str, dataset: dict) -> Optional[List[str]]:
    """The class list that a data set of the config states itself."""
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


def _check_annotated(where: str, dataset: dict, classes: List[str]) -> None:
    path = osp.join(dataset.get('data_root') or '', dataset.get('ann_file') or '')
    if not path.endswith('.json') or not osp.isfile(path):
        return
    try:
        with open(path) as file:
            content = json.load(file)
        names = [category['name'] for category in content['categories']]
        images = [image['file_name'] for image in content.get('images', [])]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f'annotation file {path} ({where}.ann_file) is no COCO JSON '
            f'({type(error).__name__}: {error}); it needs images, annotations and categories'
        ) from error
    absent = [name for name in classes if name not in names]
    if absent:
        raise UsageError(
            f'class {", ".join(map(repr, absent))} of {where}.metainfo.classes is not in {path}; '
            f'its categories are {", ".join(map(repr, names))}, equal to the letter'
        )
    folder = (dataset.get('data_prefix') or {}).get('img')
    if isinstance(folder, str) and dataset.get('backend_args') is None:
        # A hundred images tell whether the folder is the right one; COCO has a thousand times as
        # many.
        for name in images[:: len(images) // 100 + 1]:
            image = osp.join(dataset.get('data_root') or '', folder, name)
            _check(image, f'image of {path}', osp.isfile, f'check {where}.data_prefix.img')


def _check_heads(cfg: Config, where: str, count: int) -> None:
    for head, part in dicts(cfg.model, 'model'):
        predicted = part.get('num_classes')
        of_classes = 'head' in head and 'rpn' not in head  # an RPN tells objects from background
        if of_classes and isinstance(predicted, int) and predicted != count:
            raise UsageError(
                f'{head}.num_classes is {predicted}, but {where}.metainfo.classes has {count}; '
                f'set {head}.num_classes={count}'
            )


def check_model(cfg: Config) -> None:
    """Make sure that the model of a config can be built, before anything is written.

    Raises:
        UsageError: it cannot; the message is the first line of what its constructor says.
    """
    scope = cfg.get('default_scope') or 'mmengine'
    try:
        with DefaultScope.overwrite_default_scope(scope):
            MODELS.build(copy.deepcopy(cfg.model))
    except Exception as error:  # whatever a constructor raises
        raise UsageError(
            f'the model of {cfg.filename} cannot be built: {first_line(error)}'
        ) from error
