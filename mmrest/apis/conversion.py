"""What a file of weights holds, and the part of it that a network of mmrest loads."""

from typing import Dict, List, Mapping, NamedTuple

from torch import Tensor, nn

from ..checkpoint import CheckpointError, Weights, shortened
from ..models.pretrained import named_networks, recognised
from ..models.pyramid import PyramidBackbone

WHOLE_PREFIX = 'backbone.'
"""Where mmdet, mmseg and mmpretrain keep the backbone of a whole network."""


class Contents(NamedTuple):
    """What a file holds.

    Attributes:
        source: what to call the file.
        archs: the networks that its backbone fits, such as ``rmt_b``; none where mmrest does not
            know it by a name.
        prefix: what stands before the names of the backbone.
        backbone: the tensors of the backbone, under its own names.
        others: all other tensors, under the names of the file.
        near: the network that has the most of these tensors, in words.
    """

    source: str
    archs: List[str]
    prefix: str
    backbone: Dict[str, Tensor]
    others: Dict[str, Tensor]
    near: str

    @property
    def is_whole(self) -> bool:
        """Whether it is of a whole detector or segmentor under OpenMMLab's names."""
        return self.prefix == WHOLE_PREFIX and bool(self.others)

    def converted(self, backbone_alone: bool) -> Dict[str, Tensor]:
        """The tensors of a clean file: of the backbone, or of the whole network.

        Raises:
            CheckpointError: no network of mmrest has these tensors.
        """
        if not self.archs:
            raise CheckpointError(
                f'{self.source} fits none of the networks that mmrest knows by a name, '
                f'{self.near}; its tensors are {shortened([*self.backbone, *self.others])}'
            )
        if backbone_alone or not self.is_whole:
            return self.backbone
        return {**{WHOLE_PREFIX + n: t for n, t in self.backbone.items()}, **self.others}


def contents(weights: Weights) -> Contents:
    """Look for a backbone of mmrest in a file.

    Args:
        weights: all that the file holds.
    """
    networks = dict(named_networks(PyramidBackbone.families()))
    names = {name for network in networks.values() for name in network.state_dict()}
    prefix = weights.prefix_of(names)
    inside = weights.under(prefix).tensors if prefix else weights.tensors
    archs = recognised(inside, networks.items())
    # Neither a classifier, whose norm may be called like one of the other family, nor the tables
    # of positions in the files of RMT.
    near = archs[0] if archs else max(networks, key=lambda name: _found(networks[name], inside))
    names = networks[near].state_dict()
    of_all = sum(not name.endswith('num_batches_tracked') for name in names)
    words = f'{_found(networks[near], inside)} of {of_all} tensors are those of {near}'
    backbone = {name: tensor for name, tensor in inside.items() if name in names}
    kept = {prefix + name for name in inside} if prefix else backbone
    others = {name: tensor for name, tensor in weights.tensors.items() if name not in kept}
    return Contents(weights.source, archs, prefix, backbone, others, words)


def _found(network: nn.Module, tensors: Mapping[str, Tensor]) -> int:
    """How many of the tensors of a network there are, by name and shape."""
    return sum(
        name in tensors and tensors[name].shape == tensor.shape
        for name, tensor in network.state_dict().items()
        if not name.endswith('num_batches_tracked')
    )
