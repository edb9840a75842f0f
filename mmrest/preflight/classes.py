"""One name for each label: in training, evaluation, and the heads of the network."""

from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

from mmengine.config import Config

from ..engine.config import dicts, heads, type_name
from ..engine.errors import UsageError
from .data import Part, label_values
from .report import Report, some

IGNORED = 255
"""What mmseg's data sets and losses make of pixels that are of no class, if not told otherwise."""

OPEN = {'language_model', 'text_encoder'}
"""Parts of networks that take classes as text and may have heads for any number of them."""


def check_classes(cfg: Config, parts: List[Part], report: Report) -> None:
    """Make sure that label i has one name in a run, and that the heads predict it.

    Args:
        cfg: config of the run.
        parts: its data sets, with samples.
        report: what is found is added to it.

    Raises:
        UsageError: the classes of two data sets differ, a head predicts another number, or a
            label is none of them.
    """
    first: Optional[Part] = None
    for part in parts:
        if part.classes is None:
            continue
        first = first or part
        _check_same(first, part)
        if not OPEN & cfg.model.keys():
            _check_heads(cfg, part)
    for part in parts:
        _check_label_maps(cfg, part, report)
        labels = [s.info['gt_label'] for s in part.samples if 'gt_label' in s.info]
        highest = max((max(_listed(label), default=0) for label in labels), default=0)
        for head, count in _counts(cfg):
            if highest >= count:
                raise UsageError(
                    f'{part.where} has the label {highest} where {head} is {count}, so that 0 to '
                    f'{count - 1} are classes; set {head}, or mend the list of images'
                )
    _check_binary(cfg)


def _listed(label: Any) -> List[int]:
    return list(label) if isinstance(label, (list, tuple)) else [int(label)]


def _check_same(first: Part, part: Part) -> None:
    ours, others = part.classes, first.classes
    if ours == others:
        return
    alone = {
        p.where: [repr(name) for name in mine if name not in theirs]
        for p, mine, theirs in ((first, others, ours), (part, ours, others))
    }
    if not any(alone.values()):
        raise UsageError(
            f'{part.where} has the classes in the order ({some(ours, 100)}), and {first.where} in '
            f'the order ({some(others, 100)}); set metainfo.classes in one order in both'
        )
    where = ', and '.join(f'{some(names)} is in {p} alone' for p, names in alone.items() if names)
    raise UsageError(
        f'{part.where} ({_root(part)}) does not have the classes of {first.where} '
        f'({_root(first)}): {where}; have the same in both, in one order (of class folders: make '
        'an empty one where there is no image)'
    )


def _root(part: Part) -> str:
    dataset = part.dataset
    prefix = getattr(dataset, 'img_prefix', None)  # of class folders
    return str(prefix or getattr(dataset, 'ann_file', '') or type(dataset).__name__)


def _counts(cfg: Config) -> Iterator[Tuple[str, int]]:
    """How many classes the parts of a classifier are for, by dotted key."""
    yield from ((f'{head}.num_classes', count) for head, count in heads(cfg))
    for where, parent in (('', cfg), ('model.', cfg.model)):
        count = (parent.get('data_preprocessor') or {}).get('num_classes')
        if count is not None:  # of labels that it mixes
            yield f'{where}data_preprocessor.num_classes', count


def _check_heads(cfg: Config, part: Part) -> None:
    count = len(part.classes)
    for head, predicted in _counts(cfg):
        if predicted != count:
            raise UsageError(
                f'{head} is {predicted}, but {part.where} ({_root(part)}) has {count} classes '
                f'({some(part.classes, 3)}); set {head}={count}, or metainfo.classes'
            )


def _check_label_maps(cfg: Config, part: Part, report: Report) -> None:
    values = label_values(part)
    if not values:
        return
    ignored: Set[int] = {IGNORED, getattr(part.dataset, 'ignore_index', IGNORED)}
    for head, node in _segmentation_heads(cfg):
        of_head = ignored | {node.get('ignore_index', IGNORED)}
        beyond = sorted(v for v in set(values) - of_head if not 0 <= v < node['num_classes'])
        if beyond:
            raise UsageError(
                f'label map {values[beyond[0]]} ({part.where}) holds {beyond[0]}, where '
                f'{head}.num_classes is '
                f'{node["num_classes"]}, so that 0 to {node["num_classes"] - 1} are classes; '
                f'check metainfo.classes, reduce_zero_label and {head}.ignore_index'
            )
        learnt, left_out = set(values) - of_head, sorted(of_head & set(values))
        if part.phase == 'train' and len(learnt) < 2 <= node['num_classes'] and left_out:
            raise UsageError(
                f'label maps of {part.where} hold {some(sorted(values))} alone, of which '
                f'{some(left_out)} is ignored, so that nothing tells one class from another; '
                'number the classes from 0 (a mask of 0 and 255 becomes 0 and 1)'
            )
    report.add(f'label maps of {part.where}', f'{len(set(values) - ignored)} classes in a sample')


def _segmentation_heads(cfg: Config) -> Iterator[Tuple[str, Dict[str, Any]]]:
    for head, node in dicts(cfg.model, 'model'):
        named = {'decode_head', 'auxiliary_head'} & set(head.split('.')[-2:])
        if named and isinstance(node.get('num_classes'), int) and type_name(node) != 'STDCHead':
            yield head, node


def _check_binary(cfg: Config) -> None:
    for head, node in _segmentation_heads(cfg):
        losses = [part for _, part in dicts(node.get('loss_decode'), '') if type_name(part)]
        channels = node.get('out_channels') or node['num_classes']
        if (
            channels == 1
            and losses
            and not any(
                loss.get('use_sigmoid') or type_name(loss) != 'CrossEntropyLoss' for loss in losses
            )
        ):
            raise UsageError(
                f'{head} has one channel, over which a softmax is always 1; set '
                f'{head}.loss_decode.use_sigmoid=True, or num_classes=2 and no out_channels'
            )
