"""Parameters and multiply-adds of networks, with every product of the attention counted."""

from collections import Counter
from functools import partial
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple, Union

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..engine.errors import UsageError
from ..models import RMT, ResT
from ..models.projection import RMTTokenProjection
from ..models.pyramid import PyramidBackbone
from ..ops import use_backend
from .networks import on_meta

NUM_REGIONS = 1000
NUM_MASKS = 100
"""Regions that a two-stage detector classifies and masks that it draws, as its test_cfg allows."""


class Complexity(NamedTuple):
    """What a network takes.

    Attributes:
        parameters: all of them, of heads that only training uses too.
        macs: multiply-adds of inference on one image.
    """

    parameters: int
    macs: int


class Part(NamedTuple):
    """What a part of a network takes; see :class:`Complexity`.

    Attributes:
        name: for instance 'stage 2', or 'neck'.
        parameters: its own.
        macs: its multiply-adds.
        attention: those among `macs` of two maps by each other: q k^T and P V.
        counted: False for a head that multiplies in a way that is not known here; `macs` and
            `attention` are 0 then.
    """

    name: str
    parameters: int
    macs: int
    attention: int
    counted: bool = True


def count(model: nn.Module, height: int, width: int) -> Complexity:
    """Count what a backbone, a detector, a segmentor or a classifier takes for one image.

    The products of convolutions, linear layers and attention are counted, as mmengine's counter
    does not for fused attention; norms, activations, resizing, RoIAlign and NMS are not. A
    two-stage detector has 1000 regions and 100 masks.

    Args:
        model: the network, on the meta device or any other.
        height: pixels.
        width: pixels.

    Raises:
        UsageError: a head cannot be counted; :func:`count_parts` counts the other parts.
    """
    parts = count_parts(model, height, width)
    unknown = [part.name for part in parts if not part.counted]
    if unknown:
        raise UsageError(
            f'the multiply-adds of {", ".join(unknown)} of {type(model).__name__} cannot be '
            'counted; count_parts counts the other parts'
        )
    return Complexity(sum(part.parameters for part in parts), sum(part.macs for part in parts))


def count_config(cfg: dict, height: int, width: int) -> Complexity:
    """Count what the model of a config takes; it needs neither memory nor data.

    Args:
        cfg: config with ``model`` and ``default_scope``.
        height: pixels.
        width: pixels.
    """
    return count(on_meta(cfg), height, width)


def count_parts(model: nn.Module, height: int, width: int) -> List[Part]:
    """:func:`count`, by parts that together are the whole network.

    A backbone of mmrest has its stem, its stages, each with the downsampling that leads into it,
    and its output norms, which multiply nothing. Parts of any other network are its children,
    and of those that only hold others their children.

    Args:
        model: the network, on the meta device or any other.
        height: pixels.
        width: pixels.

    Returns:
        The parts in the order of the network, those without parameters and products left out.
    """
    names = _part_names(model)
    parameters = Counter(dict.fromkeys(names.values(), 0))
    for name, parameter in model.named_parameters():
        parameters[_part_of(name, names)] += parameter.numel()
    macs, attention = _products(model, names, height, width)
    unknown = _with_weights(model, names) - set(+macs)
    parts = [Part(n, parameters[n], macs[n], attention[n], n not in unknown) for n in parameters]
    return [part for part in parts if part.parameters or part.macs]


OTHER = 'other'
"""What belongs to no child of a network: its own parameters, and products between its parts."""


def _part_names(model: nn.Module) -> Dict[str, str]:
    """Prefix of the names of modules -> part that they belong to; '' for what has none."""
    if isinstance(model, PyramidBackbone):
        return {**_stages_of(model), '': OTHER}
    found = {'': OTHER}
    for name, child in model.named_children():
        if isinstance(child, PyramidBackbone):
            parts = _stages_of(child).items()
            found.update((f'{name}.{prefix}', f'{name}: {part}') for prefix, part in parts)
        elif name == 'roi_head' or isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            found.update(
                (f'{name}.{each}.', f'{name}.{each}') for each, _ in child.named_children()
            )
        else:
            found[f'{name}.'] = name
    return found


def _stages_of(backbone: PyramidBackbone) -> Dict[str, str]:
    names = {module: f'{name}.' for name, module in backbone.named_modules()}
    found = {names[backbone.embedding(0)]: 'stem'}
    for stage in range(backbone.num_stages):
        for part in (backbone.embedding(stage), backbone.blocks(stage)):
            found.setdefault(names[part], f'stage {stage + 1}')
    norms = map(backbone.output_norm, range(backbone.num_stages))
    found.update((names[norm], 'output norms') for norm in norms if norm is not None)
    return found


def _part_of(name: str, names: Dict[str, str]) -> str:
    """Part of a module or parameter."""
    return names[max((p for p in names if f'{name}.'.startswith(p)), key=len)]


WELL_KNOWN = ('backbone', 'neck', 'auxiliary_head')
"""Parts that do what their network says, or nothing: what does not multiply is not needed."""


def _with_weights(model: nn.Module, names: Dict[str, str]) -> Set[str]:
    """Parts that inference must have multiplied by, if :func:`_infer` knows what they do."""
    if not hasattr(model, 'extract_feat'):
        return set()
    return {
        _part_of(name, names)
        for name, module in model.named_modules()
        if name.partition('.')[0] not in WELL_KNOWN and _multiplies(module)
    }


def _multiplies(module: nn.Module) -> bool:
    """Whether it is a convolution or linear layer, of whichever library."""
    weight = getattr(module, 'weight', None)
    is_matrix = isinstance(weight, Tensor) and weight.ndim > 1
    return is_matrix and not isinstance(module, nn.Embedding)


def _products(
    model: nn.Module, names: Dict[str, str], height: int, width: int
) -> Tuple[Counter, Counter]:
    """Multiply-adds of each part, and those of attention."""
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    handles = []
    try:
        # In the plain form every product is one that torch's counter knows.
        with torch.no_grad(), use_backend('reference'), FlopCounterMode(display=False) as counter:
            meter = _Meter(counter)
            for name, module in model.named_modules():
                part = _part_of(name, names)
                if part != OTHER:
                    handles.append(module.register_forward_pre_hook(meter.enter))
                    handles.append(module.register_forward_hook(partial(meter.leave, part)))
            _infer(model, torch.zeros(1, 3, height, width, device=device))
            meter.settle(OTHER)
    finally:
        for handle in handles:
            handle.remove()
        model.train(training)
    return meter.macs, meter.attention


class _Meter:
    """Shares what a counter counts out to the parts, by the outermost module that is at work."""

    def __init__(self, counter: FlopCounterMode) -> None:
        self.macs: Counter = Counter()
        self.attention: Counter = Counter()
        self._counter = counter
        self._depth = 0

    def enter(self, *_: Any) -> None:
        if self._depth == 0:
            self.settle(OTHER)
        self._depth += 1

    def leave(self, part: str, *_: Any) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.settle(part)

    def settle(self, part: str) -> None:
        """Put down to `part` what has been counted and put down to none."""
        by_operation = self._counter.get_flop_counts().get('Global', {})
        attention = sum(
            flops for operation, flops in by_operation.items() if _is_of_two_maps(operation)
        )
        self.macs[part] += self._counter.get_total_flops() // 2 - sum(self.macs.values())
        self.attention[part] += attention // 2 - sum(self.attention.values())


def _is_of_two_maps(operation: Any) -> bool:
    name = str(operation)
    return 'bmm' in name or 'scaled_dot_product' in name


def count_classifier(
    family: str, arch: str, height: int, width: int, tokens: Optional[str] = None
) -> Complexity:
    """Count what a network takes with its classifier, for 1000 classes.

    It is the network of the ImageNet configs, which mmpretrain is needed to read.

    Args:
        family: ``ResT`` or ``RMT``.
        arch: name of the network in its family.
        height: pixels.
        width: pixels.
        tokens: which tokens have a classifier of their own, see
            :class:`~mmrest.models.projection.RMTTokenProjection`; None for none.
    """
    with torch.device('meta'):
        return count(_Classifier(family, arch, tokens), height, width)


RELEASED_CLASSIFIERS = ('t', 's', 'b', 'l')
"""Archs of RMT that end in a projection; the ablation networks have a norm and an average."""


class _Classifier(nn.Module):
    def __init__(self, family: str, arch: str, tokens: Optional[str]) -> None:
        super().__init__()
        if family == 'RMT' and arch in RELEASED_CLASSIFIERS:
            self.backbone = RMT(arch, out_indices=(3,), output_norms=False)
            (last,), channels = self.backbone.out_channels, 1024
            self.neck = RMTTokenProjection(last, tokens=tokens or 'last')
            of_token = channels if tokens == 'projected' else last
            self.aux_head = nn.Linear(of_token, 1000) if tokens else None
        else:
            backbone = {'ResT': ResT, 'RMT': RMT}[family]
            self.backbone = backbone(arch, out_indices=(len(backbone.archs[arch].dims) - 1,))
            self.neck, channels = _average, self.backbone.out_channels[0]
            self.aux_head = None
        self.head = nn.Linear(channels, 1000)

    def forward(self, image: Tensor) -> Tensor:
        average, tokens = self.neck(self.backbone(image))
        if self.aux_head is not None:
            self.aux_head(tokens.permute(0, 2, 3, 1))
        return self.head(average)


def _average(maps: Sequence[Tensor]) -> Tuple[Tensor, Tensor]:
    return maps[-1].mean((2, 3)), maps[-1]


def _infer(model: nn.Module, image: Tensor) -> None:
    """Everything of inference that multiplies, for as many regions as there can be."""
    if not hasattr(model, 'extract_feat'):
        model(image)
        return
    maps = model.extract_feat(image)
    for name in ('decode_head', 'bbox_head', 'rpn_head', 'head'):
        head = getattr(model, name, None)
        if head is not None:
            head(maps)
    roi_head = getattr(model, 'roi_head', None)
    if roi_head is not None:
        _infer_regions(roi_head.bbox_roi_extractor, roi_head.bbox_head, NUM_REGIONS, image)
        if roi_head.with_mask:
            _infer_regions(roi_head.mask_roi_extractor, roi_head.mask_head, NUM_MASKS, image)


def _infer_regions(
    extractors: Union[nn.Module, Sequence[nn.Module]],
    heads: Union[nn.Module, Sequence[nn.Module]],
    number: int,
    image: Tensor,
) -> None:
    for extractor, head in zip(_stages(extractors), _stages(heads)):
        size = extractor.roi_layers[0].output_size
        head(image.new_zeros(number, extractor.out_channels, *size))


def _stages(part: Union[nn.Module, Sequence[nn.Module]]) -> Sequence[nn.Module]:
    """The stages of a cascade, of which other heads have one."""
    return part if isinstance(part, nn.ModuleList) else [part]
