"""Checks of classes: datasets and heads must agree on the name of each label."""

from typing import Any, Dict, Iterator, List, Sequence, Set, Tuple

import numpy as np
from mmengine.config import Config
from torch import nn

from ..engine.config import dicts, heads
from ..errors import UsageError, explained, some
from .data import Part
from .findings import Report

IGNORED = 255
"""Value of pixels without a class in mmseg's datasets and losses, by default."""

MAPS = 200
"""Number of label maps to read if a sample has a single class."""

OPEN = {'language_model', 'text_encoder'}
"""Parts of open-vocabulary networks, whose heads may have any number of classes."""


def check_classes(cfg: Config, model: nn.Module, parts: List[Part], report: Report) -> None:
    """Check that each label has one name in a run, and that the heads predict it.

    Raises:
        UsageError: the classes of two datasets differ, a head predicts a different number, or a
            label is out of range.
    """
    named = [part for part in parts if part.classes is not None]
    for part in named if not OPEN & cfg.model.keys() else ():
        _check_same(named[0], part)
        reduced = [p.metainfo.get('reduce_zero_label', False) for p in (named[0], part)]
        if reduced[0] != reduced[1]:
            report.warnings.append(
                f'reduce_zero_label is {reduced[1]} in {part.where}, but {reduced[0]} in '
                f'{named[0].where}, so that labels differ by 1 unless the files do; set one value'
            )
        for key, count, names in _counts(cfg, part.metainfo):
            if count != len(names):
                raise UsageError(
                    f'{key} is {count}, but {part.where} ({_root(part)}) has {len(names)} '
                    f'classes ({some(names, 3)}); set {key}={len(names)}, or metainfo'
                )
    for part in parts:
        _check_label_maps(cfg, part, report)
        labels = [s.info['gt_label'] for s in part.samples if 'gt_label' in s.info]
        highest = max((np.max(label, initial=-1) for label in labels), default=-1)
        for key, count, _ in _counts(cfg, part.metainfo):
            if highest >= count:
                raise UsageError(
                    f'{part.where} has the label {highest}, but {key} is {count}, so only 0 '
                    f'to {count - 1} are classes; set {key}, or fix the image list'
                )
    for name, head in model.named_modules():
        losses = getattr(head, 'loss_decode', None)
        losses = losses if isinstance(losses, nn.ModuleList) else [losses]
        softmax = all(getattr(loss, 'use_sigmoid', True) is False for loss in losses)
        if getattr(head, 'out_channels', None) == 1 and softmax:
            raise UsageError(
                f'model.{name} has one channel, over which a softmax is always 1; set '
                f'model.{name}.loss_decode.use_sigmoid=True, or num_classes=2 and no out_channels'
            )


def _check_same(first: Part, part: Part) -> None:
    if part.classes == first.classes:
        return
    differ = [f'{name!r} missing' for name in first.classes if name not in part.classes]
    differ += [f'{name!r} added' for name in part.classes if name not in first.classes]
    raise UsageError(
        f'{part.where} ({_root(part)}) does not have the classes of {first.where} '
        f'({_root(first)}): {some(differ or ["their order differs"])}; set metainfo.classes to '
        'the same names in the same order in both (an empty class folder is fine)'
    )


def _root(part: Part) -> str:
    prefix = getattr(part.dataset, 'img_prefix', None)  # of datasets with class folders
    return str(prefix or getattr(part.dataset, 'ann_file', '') or type(part.dataset).__name__)


def _counts(cfg: Config, metainfo: Dict[str, Any]) -> Iterator[Tuple[str, int, Sequence[str]]]:
    """Yield dotted key, number of classes and their names, for each count in a config."""
    names = metainfo.get('classes') or ()
    of_kind = {kind: metainfo.get(f'{kind}_classes') for kind in ('thing', 'stuff')}
    for head, count in heads(cfg) if not of_kind['stuff'] else ():
        yield f'{head}.num_classes', count, names
    top = dicts(cfg.get('data_preprocessor'), 'data_preprocessor')
    for key, node in (*dicts(cfg.model, 'model'), *top):
        counts = [node.get(f'num_{kind}_classes') or 0 for kind in ('things', 'stuff')]
        if any(counts) and all(of_kind.values()):
            yield f'{key}.num_things_classes', counts[0], of_kind['thing']
            yield f'{key}.num_stuff_classes', counts[1], of_kind['stuff']
        elif any(counts):
            kind = 'things' if counts[0] else 'stuff'
            yield f'{key}.num_{kind}_classes', sum(counts), names
        # For mixing labels.
        if key.endswith('data_preprocessor') and node.get('num_classes') is not None:
            yield f'{key}.num_classes', node['num_classes'], names


def _check_label_maps(cfg: Config, part: Part, report: Report) -> None:
    """Check the values in the label maps of the samples after the pipeline."""
    files: Dict[int, str] = {}
    for info, packed in part.samples:
        truth = packed.get('data_samples') if isinstance(packed, dict) else None
        labels = getattr(getattr(truth, 'gt_sem_seg', None), 'data', None)
        for value in labels.unique().tolist() if labels is not None else ():
            files.setdefault(value, info.get('seg_map_path') or info.get('img_path'))
    if not files:
        return
    ignored, most = {IGNORED, getattr(part.dataset, 'ignore_index', IGNORED)}, 0
    nodes = dict(dicts(cfg.model, 'model'))
    for head, count in heads(cfg):
        if not {'decode_head', 'auxiliary_head'} & set(head.split('.')[-2:]):
            continue
        most = max(most, count)
        beyond = files.keys() - ignored - {nodes[head].get('ignore_index')} - set(range(count))
        if beyond:
            raise UsageError(
                f'label map {files[min(beyond)]} ({part.where}) has the value {min(beyond)}, but '
                f'{head}.num_classes is {count}, so only 0 to {count - 1} are classes; check '
                f'metainfo.classes, reduce_zero_label and {head}.ignore_index'
            )
    found = files.keys() - ignored
    report.add(f'label maps of {part.where}', f'{len(found)} classes in a sample')
    if part.phase == 'train' and len(found) < 2 <= most and ignored & files.keys():
        _check_masks_of_255(part, report)


def _check_masks_of_255(part: Part, report: Report) -> None:
    """Check that label maps have more than one class before they are augmented."""
    values: Set[int] = set()
    loads = [s for s in part.dataset.pipeline.transforms if type(s).__name__.startswith('Load')]
    count = len(part.dataset)
    for index in range(0, count, -(-count // MAPS)):
        data = part.dataset.get_data_info(index)
        with explained(f'label map {data.get("seg_map_path")} ({part.where}) cannot be read'):
            for step in loads:
                data = step(data)
        values.update(np.unique(data.get('gt_seg_map', [])).tolist())
    if IGNORED in values and values <= {0, IGNORED}:
        fault = (
            f'label maps of {part.where} have only the values {some(sorted(values))} when they '
            'are loaded, and 255 is ignored, so there is at most one class; number the '
            'classes from 0 (1 instead of 255) in the files, or drop reduce_zero_label'
        )
        if count <= MAPS:
            raise UsageError(fault)
        report.warnings.append(fault)  # other maps may have more
