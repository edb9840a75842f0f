"""Checks of classes: datasets and heads must agree on the name of each label."""

from typing import Any, Dict, Iterable, Iterator, List, Sequence, Tuple

import numpy as np
import torch
from mmengine.config import Config
from torch import nn

from ..engine.config import dicts, heads
from ..errors import UsageError, some
from .data import Part
from .findings import Report

IGNORE_INDEX = 255
"""Value of pixels without a class in mmseg's datasets and losses, by default."""

MAX_LABELS = 100_000
"""Number of images whose labels are checked; takes a second or two."""

LABEL_HEADS = {'decode_head', 'auxiliary_head', 'head'}
"""Heads that predict a class for each pixel or image."""

OPEN_VOCABULARY = {'language_model', 'text_encoder'}
"""Parts of open-vocabulary networks, whose heads may have any number of classes."""


def check_classes(cfg: Config, model: nn.Module, parts: List[Part], report: Report) -> None:
    """Check that each label has one name in a run, and that the heads predict it.

    Raises:
        UsageError: the classes of two datasets differ, a head predicts a different number, a
            label is out of range, or the loss of a head with one channel cannot train it.
    """
    named = [part for part in parts if part.classes is not None]
    for part in named if not OPEN_VOCABULARY & cfg.model.keys() else ():
        hidden = [folder for folder in _folders(part) if folder.startswith('.')]
        if hidden:
            raise UsageError(
                f'{_source(part)} has the hidden folder {hidden[0]}, which {part.where} takes for '
                'a class; delete it'
            )
        _check_same(named[0], part)
        _check_folders(named[0], part, report)
        reduced = [p.metainfo.get('reduce_zero_label', False) for p in (named[0], part)]
        if reduced[0] != reduced[1]:
            report.warnings.append(
                f'reduce_zero_label is {reduced[1]} in {part.where}, but {reduced[0]} in '
                f'{named[0].where}, so that labels differ by 1 unless the files do; set one value'
            )
        for key, count, names in _counts(cfg, part.metainfo):
            if count != len(names):
                raise UsageError(
                    f'{key} is {count}, but {part.where} ({_source(part)}) has {len(names)} '
                    f'classes ({some(names, 3)}); set {key}={len(names)}, or metainfo'
                )
    for part in parts:
        if part.phase == 'train' or 'prototype' not in cfg.model:  # retrieval evaluates positions
            _check_labels(cfg, part, report)
    _check_heads_of_one_channel(model)


def _check_heads_of_one_channel(model: nn.Module) -> None:
    for name, head in model.named_modules():
        loss = getattr(head, 'loss_decode', getattr(head, 'loss_module', None))
        losses = list(loss.modules()) if isinstance(loss, nn.Module) else []
        if getattr(head, 'out_channels', None) == 1:
            for kind in {type(part).__name__ for part in losses if _is_backward(part)}:
                raise UsageError(
                    f'{kind} of model.{name} is higher for the right prediction of one channel '
                    'than for its inverse; use only CrossEntropyLoss(use_sigmoid=True), or set '
                    'num_classes=2 and no out_channels'
                )
        softmax = {getattr(part, 'use_sigmoid', None) for part in losses} - {None} == {False}
        if softmax and getattr(head, 'out_channels', getattr(head, 'num_classes', None)) == 1:
            remedy = 'train with at least two classes'
            if hasattr(head, 'loss_decode'):
                remedy = f'set model.{name}.loss_decode.use_sigmoid=True, or '
                remedy += 'num_classes=2 and no out_channels'
            raise UsageError(
                f'model.{name} has one channel, over which a softmax is always 1; {remedy}'
            )


def _is_backward(loss: nn.Module) -> bool:
    """Return True if a loss of one channel prefers wrong pixels, as mmseg's DiceLoss does."""
    mask, logits = torch.tensor([[[0, 1]]]), torch.tensor([[[[-9.0, 9.0]]]])
    try:
        right, wrong = (float(loss(x, mask, ignore_index=IGNORE_INDEX)) for x in (logits, -logits))
    except Exception:  # no loss of label maps, or one that fails in the first step
        return False
    return right > wrong


def _check_same(first: Part, part: Part) -> None:
    if part.classes == first.classes:
        return
    differ = [f'{name!r} missing' for name in first.classes if name not in part.classes]
    differ += [f'{name!r} added' for name in part.classes if name not in first.classes]
    remedy = 'set metainfo.classes to the same names in the same order in both'
    if _folders(first) and _folders(part):
        remedy = 'give both the same class folders (an empty one is fine)'
    raise UsageError(
        f'{part.where} ({_source(part)}) does not have the classes of {first.where} '
        f'({_source(first)}): {some(differ or ["their order differs"])}; {remedy}'
    )


def _folders(part: Part) -> Dict[str, int]:
    """Return the labels of class folders, which are numbered in alphabetical order."""
    return getattr(part.dataset, 'folder_to_idx', {})


def _check_folders(first: Part, part: Part, report: Report) -> None:
    folders, others = _folders(part), _folders(first)
    numbered = f'{part.where} numbers the folders of {_source(part)} in alphabetical order'
    if list(folders) != part.classes and set(folders) == set(part.classes):
        raise UsageError(
            f'{numbered} ({some(folders, 100)}), but metainfo.classes is ('
            f'{some(part.classes, 100)}), so names would be swapped; sort metainfo.classes'
        )
    report.warnings += [
        f'{numbered}, in which {folder} is {label}, but {others[folder]} in {_source(first)}; '
        'give both the same class folders (an empty one is fine)'
        for folder, label in folders.items()
        if others.get(folder, label) != label
    ][:1]


def _source(part: Part) -> str:
    prefix = _folders(part) and part.dataset.img_prefix  # which others may lack
    return str(prefix or getattr(part.dataset, 'ann_file', '') or type(part.dataset).__name__)


def _counts(cfg: Config, metainfo: Dict[str, Any]) -> Iterator[Tuple[str, int, Sequence[str]]]:
    """Yield dotted key, number of classes and their names, for each count in a config."""
    names, stuff = metainfo.get('classes') or (), metainfo.get('stuff_classes')
    if not stuff:
        yield from ((f'{head}.num_classes', count, names) for head, count in heads(cfg))
    top = dicts(cfg.get('data_preprocessor'), 'data_preprocessor')
    for key, node in (*dicts(cfg.model, 'model'), *top):
        counts = {kind: node.get(f'num_{kind}_classes') for kind in ('things', 'stuff')}
        if stuff and any(counts.values()):
            yield f'{key}.num_things_classes', counts['things'] or 0, metainfo['thing_classes']
            yield f'{key}.num_stuff_classes', counts['stuff'] or 0, stuff
        elif any(counts.values()):
            kind = 'things' if counts['things'] else 'stuff'
            yield f'{key}.num_{kind}_classes', sum(filter(None, counts.values())), names
        # Mixup and CutMix read it.
        if key.endswith('data_preprocessor') and node.get('num_classes') is not None:
            yield f'{key}.num_classes', node['num_classes'], names


def _check_labels(cfg: Config, part: Part, report: Report) -> None:
    """Check the labels of images, and the values in label maps, after the pipeline."""
    files: Dict[int, str] = {}
    images: Iterable[Tuple[Dict[str, Any], Any]] = [(s.info, s.label_map) for s in part.samples]
    if any('gt_label' in sample.info for sample in part.samples):
        numbers = range(0, len(part.dataset), 1 + len(part.dataset) // MAX_LABELS)
        infos = map(part.dataset.get_data_info, numbers)
        images = ((info, info.get('gt_label', ())) for info in infos)
    for info, values in images:
        for value in np.unique(values).tolist():
            files.setdefault(int(value), info.get('seg_map_path') or info.get('img_path'))
    ignored = {IGNORE_INDEX, getattr(part.dataset, 'ignore_index', IGNORE_INDEX)}
    labels, nodes = files.keys() - ignored, dict(dicts(cfg.model, 'model'))
    label_heads = {h: n for h, n in heads(cfg) if LABEL_HEADS & set(h.split('.')[-2:])}
    for head, count in label_heads.items():
        beyond = labels - {nodes[head].get('ignore_index')} - set(range(count))
        if beyond:
            hint = 'the labels' if head.endswith('.head') else 'reduce_zero_label and ignore_index'
            if count == 1 and nodes[head].get('out_channels') == 1:
                hint = f'or set {head}.num_classes=2, of which the background is one'
            raise UsageError(
                f'{files[min(beyond)]} ({part.where}) has the label {min(beyond)}, but '
                f'{head}.num_classes is {count}, so only 0 to {count - 1} are classes; check '
                f'metainfo.classes, {hint}'
            )
    numbers = [i.get('bbox_label') for s in part.samples for i in s.objects]
    numbers = [number for number in numbers if isinstance(number, (int, np.integer))]
    if part.classes and max(numbers, default=0) >= len(part.classes):
        raise UsageError(
            f'{part.where} ({_source(part)}) has objects of label {max(numbers)}, but '
            f'metainfo.classes has only {len(part.classes)} names; list all categories of the file'
        )
    most = max(label_heads.values(), default=0)
    if part.phase == 'train' and len(labels) < 2 <= most and IGNORE_INDEX in files:
        report.warnings.append(
            f'the label maps of {part.where} that were tried have only the values '
            f'{some(sorted(files))} after the pipeline, and 255 is ignored, so there is at most '
            'one class; number the classes from 0 (1 instead of 255), or drop reduce_zero_label'
        )
