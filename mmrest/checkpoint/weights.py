"""Checkpoint tensors by name, without the containers and wrappers of many libraries."""

import re
from collections import Counter
from typing import Any, Dict, Iterable, Mapping, NamedTuple, Optional

from torch import Tensor

from ..errors import CheckpointError, some
from .reading import read_checkpoint

# Keys of state dicts in checkpoints; EMA weights, the ones that papers report, are preferred.
CONTAINERS = ('state_dict_ema', 'model_ema', 'state_dict', 'model')
# Prefixes of DistributedDataParallel and torch.compile, the latter also of submodules.
_WRAPPERS = re.compile(r'^(module\.|_orig_mod\.)+|(?<=\.)_orig_mod\.')
# Prefixes of the backbone in mmdet and detectron2 detectors.
_USUAL_PREFIXES = ('', 'backbone.', 'backbone.bottom_up.')


class Weights(NamedTuple):
    """Tensors of a checkpoint, by name."""

    source: str  # in messages: the file, and the part of it
    tensors: Dict[str, Tensor]

    def under(self, prefix: str) -> 'Weights':
        """Return the tensors whose names begin with `prefix`, and remove it from the names.

        Raises:
            CheckpointError: there are none.
        """
        start = prefix.rstrip('.') + '.'
        chosen = {n[len(start) :]: t for n, t in self.tensors.items() if n.startswith(start)}
        if not chosen:
            raise CheckpointError(
                f'{self.source} has no tensor whose name begins with {start!r}; its tensors '
                f'are {some(self.tensors)}'
            )
        return Weights(f'{self.source}, {start}*', chosen)

    def of(self, wanted: Iterable[str]) -> 'Weights':
        """Return the part with the `wanted` names, see :meth:`prefix_of`."""
        prefix = self.prefix_of(wanted)
        return self.under(prefix) if prefix else self

    def prefix_of(self, wanted: Iterable[str]) -> str:
        """Return the prefix of most `wanted` names; empty, or ending in a dot.

        Raises:
            CheckpointError: several prefixes are equally good, and none of them is usual.
        """
        ends = set(wanted)
        counts: Counter = Counter()
        for name in self.tensors:
            parts = name.split('.')
            for cut in range(len(parts)):
                if '.'.join(parts[cut:]) in ends:
                    counts[''.join(f'{part}.' for part in parts[:cut])] += 1
        # Short names, such as norm.weight, are found anywhere.
        most = max(counts.values(), default=0)
        best = [p for p, count in counts.items() if count == most and 20 * count > len(ends)]
        usual = [prefix for prefix in _USUAL_PREFIXES if prefix in best]
        if len(best) > 1 and not usual:
            raise CheckpointError(
                f'{self.source} contains several networks, under {some(best)}: set '
                f'prefix={best[0][:-1]!r} in init_cfg, or pass --prefix to mmrest convert'
            )
        return (usual or best or [''])[0]


def read_weights(path: str, prefix: Optional[str] = None, map_location: Any = 'cpu') -> Weights:
    """Read the tensors in a file.

    Args:
        path: see :func:`.read_checkpoint`; for supported contents, see :func:`weights_of`.
        prefix: load only tensors whose names start with ``prefix.``, and remove the prefix.
        map_location: as for ``torch.load``.

    Raises:
        CheckpointError: the file cannot be read or contains no tensors (with that prefix).
    """
    weights = weights_of(path, read_checkpoint(path, map_location))
    return weights.under(prefix) if prefix else weights


def weights_of(source: str, content: Any) -> Weights:
    """Return the tensors in the content of a file: a state dict, plain or in a container.

    EMA weights are preferred. Prefixes of DistributedDataParallel and torch.compile are removed.

    Raises:
        CheckpointError: there are no tensors, or two with the same name.
    """
    kept = [name for name in CONTAINERS if _is_container(content, name)]
    if kept:
        content = content[kept[0]]
        if len(kept) > 1:
            source = f'{source} ({kept[0]}, not {kept[1]})'
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f'{source} contains a {type(content).__name__}, not a state dict, plain or under '
            f'{" or ".join(map(repr, CONTAINERS))}'
        )
    tensors: Dict[str, Tensor] = {}
    for name, value in content.items():
        if isinstance(value, Tensor) and isinstance(name, str):
            bare = _WRAPPERS.sub('', name)
            if value.is_meta:
                raise CheckpointError(f'{source} contains {bare} without values (on meta)')
            if bare in tensors:
                raise CheckpointError(f'{source} contains {bare} twice, with and without wrapper')
            tensors[bare] = value
    if not tensors:
        raise CheckpointError(f'{source} has no tensors; its entries are {some(content)}')
    return Weights(source, tensors)


def _is_container(content: Any, name: str) -> bool:
    part = content.get(name) if isinstance(content, Mapping) else None
    return isinstance(part, Mapping) and any(isinstance(t, Tensor) for t in part.values())
