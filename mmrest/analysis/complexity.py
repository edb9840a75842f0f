"""Parameters and MACs of networks, attention matmuls included."""

from collections import Counter
from contextlib import ExitStack
from typing import Any, Callable, Dict, List, NamedTuple, Set, Tuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from ..engine.building import image_channels
from ..errors import UsageError
from ..models.pyramid import PyramidBackbone
from ..ops import use_backend

NUM_REGIONS, NUM_MASKS = 1000, 100  # per image of a two-stage detector, as in its test_cfg
OTHER = 'other'  # the part for parameters and matmuls outside any child
OPTIONAL = ('backbone', 'neck', 'auxiliary_head')  # children that may have no MACs in inference


class Complexity(NamedTuple):
    """Cost of a network.

    Attributes:
        parameters: number of parameters, including training-only heads.
        macs: multiply-accumulate operations (MACs) for inference on one image.
    """

    parameters: int
    macs: int


class Part(NamedTuple):
    """Cost of a part of a network; see :class:`Complexity`.

    Attributes:
        name: such as 'stage 2' or 'neck'.
        attention: MACs of the attention matmuls, q k^T and P V, included in `macs`.
        counted: False for a head that cannot be run here; its `macs` and `attention` are 0.
    """

    name: str
    parameters: int
    macs: int
    attention: int
    counted: bool = True


def count(model: nn.Module, height: int, width: int) -> Complexity:
    """Count a network's parameters, and its MACs for one image.

    Convolutions, linear layers and attention are counted; norms, activations, interpolation,
    RoIAlign and NMS are not. Counts for two-stage detectors assume 1000 region proposals and 100
    masks.

    Args:
        model: backbone, detector, segmentor or classifier, on any device, including meta.
        height: image height in pixels.
        width: image width in pixels.

    Raises:
        UsageError: a head cannot be counted; :func:`count_parts` counts the other parts.
    """
    parts = count_parts(model, height, width)
    unknown = [part.name for part in parts if not part.counted]
    if unknown:
        raise UsageError(
            f'the MACs of {", ".join(unknown)} of {type(model).__name__} cannot be counted; '
            'count_parts counts the other parts'
        )
    return Complexity(sum(part.parameters for part in parts), sum(part.macs for part in parts))


def count_parts(model: nn.Module, height: int, width: int) -> List[Part]:
    """Count parameters and MACs by part, in network order; see :func:`count`.

    ResT and RMT consist of the stem, the stages, each with the downsampling before it, and the
    output norms. Other networks are split into their child modules, and containers into their own
    children. Parts without any parameters or MACs are dropped.
    """
    roots = _roots(model)
    part_of = dict.fromkeys(model.modules(), OTHER)
    for name, root in reversed(roots):  # a shared module belongs to the first part
        part_of.update(dict.fromkeys(root.modules(), name))
    parameters = dict.fromkeys([OTHER, *(name for name, _ in roots)], 0)
    for name, parameter in model.named_parameters():
        parameters[part_of[model.get_submodule(name.rpartition('.')[0])]] += parameter.numel()
    meter = _Meter(part_of)
    _run(model, meter, height, width)
    unknown = _expected(model, part_of) - set(+meter.macs)
    parts = [
        Part(name, number, meter.macs[name], meter.attention[name], name not in unknown)
        for name, number in parameters.items()
    ]
    return [part for part in parts if part.parameters or part.macs]


def _roots(model: nn.Module) -> List[Tuple[str, nn.Module]]:
    """Return the modules whose descendants form the parts, and the names of these parts."""
    if isinstance(model, PyramidBackbone):
        stages = range(model.num_stages)
        parts = [('stem', model.embedding(0)), ('stage 1', model.blocks(0))]
        for stage in stages[1:]:
            modules = (model.embedding(stage), model.blocks(stage))
            parts += [(f'stage {stage + 1}', module) for module in modules]
        norms = map(model.output_norm, filter(model.has_norm, stages))
        return [*parts, *(('output norms', norm) for norm in norms)]
    parts = []
    for name, child in model.named_children():
        if isinstance(child, PyramidBackbone) or hasattr(child, 'extract_feat'):  # of a teacher
            parts += [(f'{name}: {part}', module) for part, module in _roots(child)]
        elif name == 'roi_head' or isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            parts += [(f'{name}.{n}', module) for n, module in child.named_children()]
        else:
            parts.append((name, child))
    return parts


def _expected(model: nn.Module, part_of: Dict[nn.Module, str]) -> Set[str]:
    """Return the parts with convolutions or linear layers that :func:`_infer` must run."""
    if not hasattr(model, 'extract_feat'):
        return set()
    return {
        part_of[module]
        for name, module in model.named_modules()
        if name.partition('.')[0] not in OPTIONAL
        and getattr(getattr(module, 'weight', None), 'ndim', 0) > 1
        and not isinstance(module, nn.Embedding)
    }


def _deform_conv_flops(x_shape: Any, w_shape: Any, *_: Any, out_shape: Any, **kwargs: Any) -> int:
    return conv_flop_count(x_shape, w_shape, out_shape)


class _Meter(FlopCounterMode):
    """FLOP counter by part; torch < 2.4 copies the inputs of modules to count by module."""

    def __init__(self, part_of: Dict[nn.Module, str]) -> None:
        deformable = getattr(torch.ops.torchvision, 'deform_conv2d', None)  # of mmcv's layers too
        counted = {deformable: _deform_conv_flops} if deformable else {}
        super().__init__(display=False, custom_mapping=counted)
        self.macs: Counter = Counter()
        self.attention: Counter = Counter()
        self._part_of = part_of
        self._parts = [OTHER]

    def enter(self, module: nn.Module, *_: Any) -> None:
        self.settle()
        self._parts.append(self._part_of[module])

    def leave(self, *_: Any) -> None:
        self.settle()
        self._parts.pop()

    def attempt(self, run: Callable, *inputs: Any) -> Any:
        """Return the outputs of a head; do not count one that takes other inputs."""
        self.settle()
        before = self.macs.copy(), self.attention.copy(), self._parts[:]
        try:
            return run(*inputs)
        except (TypeError, AttributeError, NotImplementedError):
            self.flop_counts.pop('Global', None)
            self.macs, self.attention, self._parts = before

    def settle(self) -> None:
        """Attribute all unassigned counts to the part that is running."""
        part = self._parts[-1]
        for operation, flops in self.flop_counts.pop('Global', {}).items():
            self.macs[part] += flops // 2
            if 'bmm' in str(operation) or 'scaled_dot_product' in str(operation):
                self.attention[part] += flops // 2


def _run(model: nn.Module, meter: _Meter, height: int, width: int) -> None:
    image = next(model.parameters()).new_zeros(1, image_channels(model), height, width)
    with ExitStack() as hooks:
        for module in model.modules():
            hooks.callback(setattr, module, 'training', module.training)
            hooks.enter_context(module.register_forward_pre_hook(meter.enter))
            hooks.enter_context(module.register_forward_hook(meter.leave))
        model.eval()
        # FlopCounterMode sees every matmul of the reference implementation.
        with torch.no_grad(), use_backend('reference'), meter:
            _infer(model, meter, image)
            meter.settle()


def _infer(model: nn.Module, meter: _Meter, image: Tensor) -> None:
    """Run all layers of inference, with the maximum number of regions."""
    if not hasattr(model, 'extract_feat'):
        model(image)
        return
    maps = model.extract_feat(image)
    for name in ('decode_head', 'bbox_head', 'rpn_head', 'head'):
        head = getattr(model, name, None)
        first, *others = head if isinstance(head, nn.ModuleList) else [head]
        if first is not None:
            outputs = meter.attempt(first, maps)
            for other in others if outputs is not None else ():  # of a cascade
                outputs = meter.attempt(other, maps, outputs)
    roi_head = getattr(model, 'roi_head', None)
    if roi_head is not None:
        for kind, number in (('bbox', NUM_REGIONS), ('mask', NUM_MASKS)):
            head = getattr(roi_head, f'{kind}_head', None)
            if head is not None:
                extractor = getattr(roi_head, f'{kind}_roi_extractor')
                meter.attempt(_infer_regions, extractor, head, number, image)


def _infer_regions(extractors: nn.Module, heads: nn.Module, number: int, image: Tensor) -> None:
    is_cascade = isinstance(heads, nn.ModuleList)
    for extractor, head in zip(extractors, heads) if is_cascade else [(extractors, heads)]:
        size = extractor.roi_layers[0].output_size
        head(image.new_zeros(number, extractor.out_channels, *size))
