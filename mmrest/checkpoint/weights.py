"""The tensors of a checkpoint by name, out of the containers and wrappers of many programs."""

import re
from typing import Any, Dict, Iterable, Mapping, NamedTuple, Optional

import numpy as np
import torch
from torch import Tensor

from .errors import CheckpointError, shortened
from .reading import read_checkpoint

AVERAGES = ('state_dict_ema', 'model_ema')
"""Where programs keep the moving average of the weights, the one that their figures are of."""

CONTAINERS = ('state_dict', 'model')
"""Where programs keep the weights themselves."""

_WRAPPERS = re.compile(r'^(module\.|_orig_mod\.)+|(?<=\.)_orig_mod\.')
"""What DistributedDataParallel puts before names, and torch.compile before those of a part."""

_USUAL_PREFIXES = ('', 'backbone.', 'backbone.bottom_up.')
"""Where detectors keep their backbone, mmdet's and detectron2's."""


class Weights(NamedTuple):
    """Tensors of a checkpoint."""

    source: str
    """What to call them in messages: the file, and the part of it."""
    tensors: Dict[str, Tensor]

    def under(self, prefix: str) -> 'Weights':
        """Those whose names begin with `prefix`, without it.

        Raises:
            CheckpointError: there is none.
        """
        start = prefix.rstrip('.') + '.' if prefix else ''
        chosen = {n[len(start) :]: t for n, t in self.tensors.items() if n.startswith(start)}
        if not chosen:
            raise CheckpointError(
                f'{self.source} holds no tensor whose name begins with {start!r}; its tensors '
                f'are {shortened(self.tensors)}'
            )
        return Weights(f'{self.source}, {start}*' if start else self.source, chosen)

    def of(self, wanted: Iterable[str]) -> 'Weights':
        """The part that is called like `wanted`, see :meth:`prefix_of`."""
        prefix = self.prefix_of(wanted)
        return self.under(prefix) if prefix else self

    def prefix_of(self, wanted: Iterable[str]) -> str:
        """The prefix behind which the most of `wanted` are found; it is empty or ends in a point.

        Raises:
            CheckpointError: two prefixes are as good as one another, neither of them usual.
        """
        ends = set(wanted)
        counts: Dict[str, int] = {}
        for name in self.tensors:
            parts = name.split('.')
            for cut in range(len(parts)):
                if '.'.join(parts[cut:]) in ends:
                    prefix = ''.join(f'{part}.' for part in parts[:cut])
                    counts[prefix] = counts.get(prefix, 0) + 1
        # Short names, such as norm.weight, are found anywhere.
        most = max(counts.values(), default=0)
        best = [p for p, count in counts.items() if count == most and 20 * count > len(ends)]
        usual = [prefix for prefix in _USUAL_PREFIXES if prefix in best]
        if len(best) > 1 and not usual:
            raise CheckpointError(
                f'{self.source} holds several networks, behind {shortened(best)}: set '
                f'prefix={best[0][:-1]!r} or another, in init_cfg beside checkpoint; for '
                'tools/convert_checkpoint.py, --prefix'
            )
        return (usual or best or [''])[0]


def read_weights(path: str, prefix: Optional[str] = None, map_location: Any = 'cpu') -> Weights:
    """Tensors of a file by name.

    Args:
        path: see :func:`.read_checkpoint` and, for what it may hold, :func:`weights_of`.
        prefix: keep the names that begin with ``prefix.``, without it.
        map_location: as for ``torch.load``.

    Raises:
        CheckpointError: as :func:`.read_checkpoint`, or no tensor (of that prefix) is in it.
    """
    weights = weights_of(path, read_checkpoint(path, map_location))
    return weights.under(prefix) if prefix else weights


def weights_of(source: str, content: Any) -> Weights:
    """Tensors of what a file holds: a state dict, plain or in a container.

    A moving average is preferred to the weights that it is of. Names lose what
    DistributedDataParallel and torch.compile add to them; numpy's arrays become tensors.

    Args:
        source: what to call the file in messages.
        content: what was read.

    Raises:
        CheckpointError: there are no tensors in it, or two of one name.
    """
    kept = [name for name in (*AVERAGES, *CONTAINERS) if _is_container(content, name)]
    if kept:
        content = content[kept[0]]
        if len(kept) > 1:
            source = f'{source} ({kept[0]}, not {kept[1]})'
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f'{source} holds a {type(content).__name__}, not a state dict, plain or under '
            f'{" or ".join(map(repr, (*CONTAINERS, *AVERAGES)))}'
        )
    tensors: Dict[str, Tensor] = {}
    for name, value in content.items():
        if _is_tensor(value) and isinstance(name, str):
            bare = _WRAPPERS.sub('', name)
            if bare in tensors:
                raise CheckpointError(f'{source} holds {bare} twice, wrapped and bare')
            tensors[bare] = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
    if not tensors:
        raise CheckpointError(f'{source} holds no tensors; its entries are {shortened(content)}')
    return Weights(source, tensors)


def _is_container(content: Any, name: str) -> bool:
    part = content.get(name) if isinstance(content, Mapping) else None
    return isinstance(part, Mapping) and any(map(_is_tensor, part.values()))


def _is_tensor(value: Any) -> bool:
    numbers = isinstance(value, np.ndarray) and value.dtype.kind in 'biufc'
    return numbers or isinstance(value, Tensor)
