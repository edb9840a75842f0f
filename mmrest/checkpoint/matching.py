"""Which tensors of a checkpoint go into a network: all that it needs, or an error with figures."""

from typing import Callable, Dict, List, Mapping, NamedTuple, Tuple

from torch import Tensor

from .errors import CheckpointError, shortened


class _Comparison(NamedTuple):
    required: List[str]
    matched: List[str]
    misshapen: List[str]
    absent: List[str]
    left_out: List[str]

    @property
    def figures(self) -> str:
        return f'{len(self.matched)} of {len(self.required)} tensors'


def _compared(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> _Comparison:
    # A counter of batches, which only a batch norm without momentum reads.
    required = [name for name in wanted if not name.endswith('num_batches_tracked')]
    present = [name for name in required if name in tensors]
    matched = [name for name in present if tensors[name].shape == wanted[name].shape]
    return _Comparison(
        required,
        matched,
        [name for name in present if tensors[name].shape != wanted[name].shape],
        [name for name in required if name not in tensors],
        [name for name in tensors if name not in wanted],
    )


def match(
    source: str,
    tensors: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    is_optional: Callable[[str], bool] = lambda name: False,
) -> Tuple[Dict[str, Tensor], str]:
    """Choose from `tensors` those that are `wanted`, by name and shape: all of them or none.

    Args:
        source: what to call the file in messages.
        tensors: what the file holds.
        wanted: what is to be filled.
        is_optional: whether a name may be missing from the file.

    Returns:
        The tensors to load and a line that says how many of how many these are, which optional
        ones are missing and what of the file is left out.

    Raises:
        CheckpointError: a tensor is missing or has another shape.
    """
    found = _compared(tensors, wanted)
    missing = [name for name in found.absent if not is_optional(name)]
    if found.misshapen or missing:
        faults = [f'{len(missing)} missing ({shortened(missing)})'] if missing else []
        if found.misshapen:
            misshapen = shortened(
                f'{n} {tuple(tensors[n].shape)} instead of {tuple(wanted[n].shape)}'
                for n in found.misshapen
            )
            faults.append(f'{len(found.misshapen)} of another shape ({misshapen})')
        if len(found.absent) > len(missing):
            faults.append(f'{len(found.absent) - len(missing)} optional ones absent')
        raise CheckpointError(
            f'{source} does not fit: {found.figures} match, {", ".join(faults)}; the file has '
            f'{len(found.left_out)} tensors under other names ({shortened(found.left_out)})'
        )
    return (
        {name: tensors[name] for name in wanted if name in tensors},
        summary(source, tensors, wanted),
    )


def summary(source: str, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """A line that says how many of the `wanted` are loaded, and by name what else there is.

    Args:
        source: what to call the file.
        tensors: what it holds.
        wanted: what is to be filled; those of the same shape are loaded.
    """
    found = _compared(tensors, wanted)
    report = f'{found.figures} loaded from {source}'
    if found.absent:
        report += (
            f'; {len(found.absent)} are not in the file and keep their initial values '
            f'({shortened(found.absent)})'
        )
    if found.misshapen:
        report += (
            f'; {len(found.misshapen)} have another shape in the file and keep their initial '
            f'values ({shortened(found.misshapen)})'
        )
    if found.left_out:
        report += (
            f'; {len(found.left_out)} of the file are not in the network and ignored '
            f'({shortened(found.left_out)})'
        )
    return report
