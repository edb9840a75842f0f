"""Strict matching of checkpoint tensors: all that a network needs, or an error with counts."""

from typing import Dict, List, Mapping, NamedTuple, Tuple

from torch import Tensor

from ..errors import CheckpointError, some


class _Comparison(NamedTuple):
    """Tensor names; ``num_batches_tracked``, used only if momentum is None, is not required."""

    required: List[str]
    missing: List[str]
    misshapen: List[str]
    ignored: List[str]

    @property
    def matched(self) -> str:
        total = len(self.required)
        return f'{total - len(self.missing) - len(self.misshapen)} of {total} tensors'


def _compared(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> _Comparison:
    required = [name for name in wanted if not name.endswith('num_batches_tracked')]
    return _Comparison(
        required,
        [name for name in required if name not in tensors],
        [n for n in required if n in tensors and tensors[n].shape != wanted[n].shape],
        [name for name in tensors if name not in wanted],
    )


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
    found = _compared(tensors, wanted)
    missing = [name for name in found.missing if not name.startswith(optional)]
    if found.misshapen or missing:
        faults = [f'{len(missing)} missing ({some(missing)})'] if missing else []
        if found.misshapen:
            shapes = (
                f'{n} {tuple(tensors[n].shape)} instead of {tuple(wanted[n].shape)}'
                for n in found.misshapen
            )
            faults.append(f'{len(found.misshapen)} of another shape ({some(shapes)})')
        if len(found.missing) > len(missing):
            faults.append(f'{len(found.missing) - len(missing)} optional ones absent')
        if found.ignored:
            names = f'{len(found.ignored)} in the file under other names ({some(found.ignored)})'
            faults.append(names)
        raise CheckpointError(
            f'{source} does not match the model: {found.matched} matched, {", ".join(faults)}'
        )
    more = [name for name in found.ignored if name.startswith(closed)]
    if more:
        raise CheckpointError(
            f'{source} does not match the model: {len(more)} tensors of the file belong to blocks '
            f'that the model does not have ({some(more)})'
        )
    loaded = {name: tensors[name] for name in wanted if name in tensors}
    return loaded, summary(source, tensors, wanted)


def summary(source: str, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Return a line with the number of `wanted` tensors loaded and the names of the others.

    Args:
        source: name of the file.
        tensors: content of the file.
        wanted: state dict of the network; tensors of the same shape are loaded.
    """
    found = _compared(tensors, wanted)
    parts = [f'{found.matched} loaded from {source}']
    for names, text in (
        (found.missing, 'are not in the file and keep their initial values'),
        (found.misshapen, 'have another shape in the file and keep their initial values'),
        (found.ignored, 'of the file are not in the network and ignored'),
    ):
        if names:
            parts.append(f'{len(names)} {text} ({some(names)})')
    return '; '.join(parts)
