"""Released weights for a backbone: all that it needs, or an error that names whose they are."""

from typing import Dict, Iterable, Iterator, List, Mapping, Optional, Tuple

import torch
from mmengine.logging import print_log
from mmengine.model import PretrainedInit
from mmengine.model.weight_init import update_init_info
from torch import Tensor, nn

from ..checkpoint import CheckpointError, Weights, match, read_weights


class LoadPretrained:
    """Initialiser of mmengine that covers the backbone or raises.

    mmengine's own loads whatever matches, nothing at all included, and goes on.
    """

    def __init__(
        self, checkpoint: str, prefix: Optional[str] = None, map_location: str = 'cpu'
    ) -> None:
        self.checkpoint = checkpoint
        self.prefix = prefix
        self.map_location = map_location

    def __call__(self, backbone: nn.Module) -> None:
        backbone.load_pretrained(self.checkpoint, self.prefix, self.map_location)
        update_init_info(backbone, f'Loaded from {self.checkpoint}')


def is_from_file(init_cfg: dict) -> bool:
    """Whether an ``init_cfg`` loads weights, in mmengine's way or in that of this module."""
    return init_cfg.get('type') in ('Pretrained', 'PretrainedInit', PretrainedInit, LoadPretrained)


def load(backbone: nn.Module, path: str, prefix: Optional[str], map_location: str) -> None:
    """Load a file into a backbone, see :meth:`PyramidBackbone.load_pretrained`."""
    tensors, report = fit(backbone, read_weights(path, prefix, map_location))
    backbone.load_state_dict(tensors, strict=False)
    print_log(report, logger='current')


def fit(backbone: nn.Module, weights: Weights) -> Tuple[Dict[str, Tensor], str]:
    """Choose the tensors of a backbone, by the names that it has.

    Args:
        backbone: a :class:`~mmrest.models.pyramid.PyramidBackbone`.
        weights: of the backbone alone, or of more with the backbone behind a prefix.

    Returns:
        The tensors and a line about them, see :func:`mmrest.checkpoint.match`.

    Raises:
        CheckpointError: a tensor other than an output norm is missing, one has another shape, or
            there are blocks that the backbone does not have. The message names the arch that
            they are of, where mmrest knows it.
    """
    weights = weights.of(backbone.state_dict())
    try:
        return _chosen(backbone, weights)
    except CheckpointError as error:
        names = recognised(weights.tensors, named_networks(backbone.families()))
        if not names:
            raise
        hint = f'; it looks like {" or ".join(names)}: set type and arch of the backbone to that'
        raise CheckpointError(f'{error}{hint}') from error


def _chosen(backbone: nn.Module, weights: Weights) -> Tuple[Dict[str, Tensor], str]:
    stages = range(backbone.num_stages)
    names = {module: f'{name}.' for name, module in backbone.named_modules()}
    norms = tuple(names[norm] for norm in map(backbone.output_norm, stages) if norm is not None)
    state = backbone.state_dict()
    found = match(
        f'{weights.source} for {type(backbone).__name__}',
        weights.tensors,
        state,
        is_optional=lambda name: name.startswith(norms),
    )
    # Weights of a deeper network cover this one, and yet are not meant for it.
    blocks = tuple(names[backbone.blocks(stage)] for stage in stages)
    more = [name for name in weights.tensors if name.startswith(blocks) and name not in state]
    if more:
        raise CheckpointError(
            f'{weights.source} holds {len(more)} tensors of blocks that this '
            f'{type(backbone).__name__} does not have ({more[0]}, ...): it was made for another '
            'arch; give the weights of this one, or set arch'
        )
    return found


def recognised(
    tensors: Mapping[str, Tensor], networks: Iterable[Tuple[str, nn.Module]]
) -> List[str]:
    """Names, such as ``rmt_b``, of the networks that a set of tensors was made for.

    Args:
        tensors: under the names of a backbone, whatever else there is beside them.
        networks: what it may be of, see :func:`named_networks`.
    """
    weights, names = Weights('', dict(tensors)), []
    for name, network in networks:
        try:
            _chosen(network, weights)
        except CheckpointError:
            continue
        names.append(name)
    return names


def named_networks(families: Iterable[type]) -> Iterator[Tuple[str, nn.Module]]:
    """The networks that have a name, on the meta device.

    Args:
        families: subclasses of :class:`~mmrest.models.pyramid.PyramidBackbone`.
    """
    for family in families:
        for arch in family.archs:
            with torch.device('meta'):
                yield f'{family.__name__.lower()}_{arch}', family(arch)
