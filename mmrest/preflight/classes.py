"""Checks of classes: datasets and heads must agree on the name of each label."""

from typing import Any, Dict, Iterator, List, Sequence, Tuple

import numpy as np
from mmengine.config import Config
from torch import nn

from ..engine.config import dicts, heads
from ..errors import UsageError, some
from .data import Part
from .findings import Report

IGNORED = 255
"""Value of pixels without a class in mmseg's datasets and losses, by default."""

OF_LABELS = {'decode_head', 'auxiliary_head', 'head'}
"""Heads that predict a class for each pixel or image."""

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
        hidden = [name for name in part.classes if str(name).startswith('.')]
        if hidden and hasattr(part.dataset, 'folder_to_idx'):
            raise UsageError(
                f'{_root(part)} has the hidden folder {hidden[0]}, which {part.where} takes for a '
                'class; delete it'
            )
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
        _check_labels(cfg, part, report)
    for name, head in model.named_modules():
        loss = getattr(head, 'loss_decode', getattr(head, 'loss_module', None))
        losses = loss.modules() if isinstance(loss, nn.Module) else ()
        softmax = {getattr(part, 'use_sigmoid', None) for part in losses} - {None} == {False}
        if softmax and getattr(head, 'out_channels', getattr(head, 'num_classes', None)) == 1:
            remedy = 'train with at least two classes'
            if hasattr(head, 'loss_decode'):
                remedy = f'set model.{name}.loss_decode.use_sigmoid=True, or '
                remedy += 'num_classes=2 and no out_channels'
            raise UsageError(
                f'model.{name} has one channel, over which a softmax is always 1; {remedy}'
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
    names, stuff = metainfo.get('classes') or (), metainfo.get('stuff_classes')
    for head, count in heads(cfg) if not stuff else ():
        yield f'{head}.num_classes', count, names
    top = dicts(cfg.get('data_preprocessor'), 'data_preprocessor')
    for key, node in (*dicts(cfg.model, 'model'), *top):
        counts = {kind: node.get(f'num_{kind}_classes') for kind in ('things', 'stuff')}
        if stuff and any(counts.values()):
            yield f'{key}.num_things_classes', counts['things'] or 0, metainfo['thing_classes']
            yield f'{key}.num_stuff_classes', counts['stuff'] or 0, stuff
        elif any(counts.values()):
            kind = 'things' if counts['things'] else 'stuff'
            yield f'{key}.num_{kind}_classes', sum(filter(None, counts.values())), names
        # For mixing labels.
        if key.endswith('data_preprocessor') and node.get('num_classes') is not None:
            yield f'{key}.num_classes', node['num_classes'], names


def _check_labels(cfg: Config, part: Part, report: Report) -> None:
    """Check the labels of images, and the values in label maps, after the pipeline."""
    files: Dict[int, str] = {}
    for sample in part.samples:
        info, label_map = sample.info, getattr(sample.truth, 'gt_sem_seg', None)
        for value in np.unique(getattr(label_map, 'data', info.get('gt_label', ()))).tolist():
            files.setdefault(int(value), info.get('seg_map_path') or info.get('img_path'))
    ignored = {IGNORED, getattr(part.dataset, 'ignore_index', IGNORED)}
    found, nodes = files.keys() - ignored, dict(dicts(cfg.model, 'model'))
    of_labels = {h: n for h, n in heads(cfg) if OF_LABELS & set(h.split('.')[-2:])}
    for head, count in of_labels.items():
        beyond = found - {nodes[head].get('ignore_index')} - set(range(count))
        if beyond:
            hint = 'the labels' if head.endswith('.head') else 'reduce_zero_label and ignore_index'
            if count == 1 and nodes[head].get('out_channels') == 1:
                hint = f'or set {head}.num_classes=2, of which the background is one'
            raise UsageError(
                f'{files[min(beyond)]} ({part.where}) has the label {min(beyond)}, but '
                f'{head}.num_classes is {count}, so only 0 to {count - 1} are classes; check '
                f'metainfo.classes, {hint}'
            )
    most = max(of_labels.values(), default=0)
    if part.phase == 'train' and len(found) < 2 <= most and IGNORED in files:
        report.warnings.append(
            f'the label maps of {part.where} that were tried have only the values '
            f'{some(sorted(files))} after the pipeline, and 255 is ignored, so there is at most '
            'one class; number the classes from 0 (1 instead of 255), or drop reduce_zero_label'
        )
