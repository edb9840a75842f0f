"""Strict matching of checkpoint tensors: all that a network needs, or an error with counts."""

from typing import Dict, List, Mapping, Tuple

from torch import Tensor

from ..errors import CheckpointError, some


def _compared(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> Tuple[str, List[str], List[str], List[str]]:
    """Return the number of matching tensors as text, and missing, misshapen and ignored names."""
    # num_batches_tracked is used only if momentum is None.
    required = [name for name in wanted if not name.endswith('num_batches_tracked')]
    missing = [name for name in required if name not in tensors]
    misshapen = [n for n in required if n in tensors and tensors[n].shape != wanted[n].shape]
    ignored = [name for name in tensors if name not in wanted]
    matched = len(required) - len(missing) - len(misshapen)
    return f'{matched} of {len(required)} tensors', missing, misshapen, ignored


def _named(*parts: Tuple[List[str], str]) -> List[str]:
    return [f'{len(names)} {text} ({some(names)})' for names, text in parts if names]


def match(
    source: str,
    tensors: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    optional: Tuple[str, ...] = (),
    closed: Tuple[str, ...] = (),
) -> Tuple[Dict[str, Tensor], str]:
    """Select the `wanted` tensors by name and shape: all of them or none.

    Args:
        source: name of the file in messages.
        tensors: content of the file.
        wanted: state dict of the network.
        optional: prefixes of names that may be missing from the file.
        closed: prefixes under which the file may have no other tensors. The weights of a deeper
            network contain every tensor of a shallower one, but were not trained for it.

    Returns:
        The tensors to load and :func:`summary`.

    Raises:
        CheckpointError: a tensor is missing or has another shape, or the file has other tensors.
    """
    matched, absent, misshapen, ignored = _compared(tensors, wanted)
    missing = [name for name in absent if not name.startswith(optional)]
    if misshapen or missing:
        shapes = [
            f'{n} {tuple(tensors[n].shape)} instead of {tuple(wanted[n].shape)}' for n in misshapen
        ]
        faults = _named((missing, 'missing'), (shapes, 'of another shape'))
        faults += _named((ignored, 'in the file under other names'))
        raise CheckpointError(
            f'{source} does not match the model: {matched} matched, {", ".join(faults)}'
        )
    # Other norms than torch's may lack its counter, which nothing reads.
    counter = 'num_batches_tracked'
    more = [n for n in ignored if n.startswith(closed) and not n.endswith(counter)]
    if more:
        raise CheckpointError(
            f'{source} does not match the model: {len(more)} tensors of the file belong to layers '
            f'that the model does not have ({some(more)})'
        )
    loaded = {name: tensors[name] for name in wanted if name in tensors}
    return loaded, summary(source, tensors, wanted)


def summary(source: str, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Return a line with the number of `wanted` tensors loaded and the names of the others."""
    matched, missing, misshapen, ignored = _compared(tensors, wanted)
    others = _named(
        (missing, 'are not in the file and keep their initial values'),
        (misshapen, 'have another shape in the file and keep their initial values'),
        (ignored, 'of the file are not in the network and ignored'),
    )
    return '; '.join([f'{matched} loaded from {source}', *others])
