"""ONNX files of backbones and segmentors, and whether they compute what the networks compute."""

import copy
import importlib.util
import inspect
import json
import logging
import os
import tempfile
import warnings
from pathlib import Path
from typing import Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import Tensor, nn

from ..analysis.networks import backbone_of, preprocessing
from ..engine.config import first_line
from ..engine.errors import UsageError
from ..version import __version__

PACKAGES = ('onnx', 'onnxscript', 'onnxruntime')
"""What requirements/optional.txt names; the last one is for the comparison alone."""

Shape = Tuple[int, int, int]
"""Images, height and width."""


class Segmentor(nn.Module):
    """A segmentor of mmseg from normalised images to logits of their size.

    Args:
        model: the segmentor, whose adaptive pooling is exchanged.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = _with_any_size(copy.deepcopy(model))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, classes, H, W)."""
        logits = self.model.decode_head(self.model.extract_feat(images))
        corners = self.model.align_corners
        return F.interpolate(logits, images.shape[2:], mode='bilinear', align_corners=corners)


class AdaptiveAvgPool(nn.Module):
    """``nn.AdaptiveAvgPool2d`` as two products of matrices, for a map of any size.

    ONNX has no adaptive pooling, and torch's exporter takes it apart for one size only. Bin i of k
    is the mean of the positions from ``floor(i L / k)`` up to ``ceil((i + 1) L / k)`` of L.

    Args:
        bins: rows and columns of the result.
    """

    def __init__(self, bins: Tuple[int, int]) -> None:
        super().__init__()
        self.bins = bins

    def forward(self, x: Tensor) -> Tensor:
        rows = _bins(x.shape[2], self.bins[0], x)
        columns = _bins(x.shape[3], self.bins[1], x)
        return rows @ x @ columns.T


def _bins(length: int, bins: int, like: Tensor) -> Tensor:
    """Share of each position in each bin, (bins, length)."""
    position = torch.arange(length, device=like.device)[None]
    number = torch.arange(bins, device=like.device)[:, None]
    start = number * length // bins
    end = ((number + 1) * length + bins - 1) // bins
    inside = ((position >= start) & (position < end)).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)


class Upsample(nn.Module):
    """mmseg's ``Upsample`` by a whole factor, for a map of any size.

    mmseg computes the size in floating point, which the exporter takes for a constant: the file
    then gives other numbers at other sizes, without an error.

    Args:
        factor: how many times the rows and columns.
        mode: of the interpolation.
        align_corners: likewise.
    """

    def __init__(self, factor: int, mode: str, align_corners: Optional[bool]) -> None:
        super().__init__()
        self.factor = factor
        self.mode = mode
        self.align_corners = align_corners

    def forward(self, x: Tensor) -> Tensor:
        size = [length * self.factor for length in x.shape[2:]]
        return F.interpolate(x, size, mode=self.mode, align_corners=self.align_corners)


def _with_any_size(model: nn.Module) -> nn.Module:
    """A model of mmseg in which what the exporter would fix to one size is exchanged."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            setattr(module, name, _for_any_size(child))
    return model


def _for_any_size(module: nn.Module) -> nn.Module:
    from mmseg.models.utils import Upsample as OfMmseg

    if type(module) is nn.AdaptiveAvgPool2d:
        size = module.output_size
        bins = size if isinstance(size, tuple) else (size, size)
        return module if None in bins else AdaptiveAvgPool(bins)
    if type(module) is OfMmseg and not module.size and module.scale_factor % 1 == 0:
        return Upsample(int(module.scale_factor), module.mode, module.align_corners)
    return module


def exportable(model: nn.Module, name: str) -> nn.Module:
    """What can be exported of a model: a backbone, or a segmentor with its neck and head.

    Args:
        model: in evaluation mode.
        name: what to call it in an error.

    Raises:
        UsageError: it is neither.
    """
    if backbone_of(model) is model:
        return model
    if isinstance(getattr(model, 'decode_head', None), nn.ModuleList) or not hasattr(
        model, 'decode_head'
    ):
        # mmpretrain's classifiers have a `head`, mmdet's detectors heads of other names.
        others = (
            'the heads of classifiers'
            if hasattr(model, 'head')
            else 'what detectors do with boxes (anchors, RoIAlign, NMS)'
        )
        raise UsageError(
            f'{name} is a {type(model).__name__}: backbones and segmentors with one head are '
            f'exported, not {others}; --backbone-only exports its backbone'
        )
    return Segmentor(model).eval()


def output_names(network: nn.Module) -> List[str]:
    """Names of the outputs of what :func:`exportable` gave."""
    if isinstance(network, Segmentor):
        return ['logits']
    return [f'stage{index + 1}' for index in network.out_indices]


def facts(cfg: Config, name: str) -> Dict[str, str]:
    """What a program that runs the file has to know, as its metadata.

    Args:
        cfg: config of the network.
        name: of the network.
    """
    mean, std, order = preprocessing(cfg)
    found = dict(
        network=name,
        input='images, float32, (batch, 3, height, width), (values from 0 to 255 - mean) / std',
        channel_order=order,
        mean=json.dumps(mean),
        std=json.dumps(std),
        mmrest_version=__version__,
    )
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    classes = (dataset.get('metainfo') or {}).get('classes')
    if classes:
        found['classes'] = json.dumps(classes)
    return found


def check_packages(needed: Iterable[str]) -> None:
    """Make sure that optional packages are installed.

    Raises:
        UsageError: some are not, or torch is too old.
    """
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        names = ' '.join(missing)
        raise UsageError(f'{names} of requirements/optional.txt not found: pip install {names}')
    if 'dynamic_shapes' not in inspect.signature(torch.onnx.export).parameters:
        raise UsageError(f'ONNX needs torch 2.5 or later, this is {torch.__version__}')


def export(
    network: nn.Module,
    path: Path,
    size: Tuple[int, int],
    static: bool = False,
    opset: int = 18,
    metadata: Mapping[str, str] = {},
) -> None:
    """Write an ONNX file, weights included.

    Args:
        network: what :func:`exportable` gave.
        path: the file.
        size: height and width of the image to export with, pixels.
        static: for one image of this size alone, rather than for any number and size.
        opset: version of ONNX's operators.
        metadata: facts to keep in the file.

    Raises:
        UsageError: torch's exporter cannot do it.
    """
    batch = 1 if static else 2  # torch takes a batch of one for a constant
    images = torch.zeros(batch, 3, *size)
    free = None if static else ({0: 'batch', 2: 'height', 3: 'width'},)
    logging.getLogger('torch.onnx').setLevel(logging.ERROR)  # tells of operators not in use
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            program = torch.onnx.export(
                network,
                (images,),
                dynamo=True,
                dynamic_shapes=free,
                opset_version=opset,
                input_names=['images'],
                output_names=output_names(network),
                verbose=False,
            )
    except Exception as error:  # of any part of torch's exporter
        hint = '--backbone-only leaves out neck and head'
        if not static:
            hint = f'--static fixes batch and size, {hint}'
        raise UsageError(
            f'{type(network).__name__} cannot be exported: {_cause(error)}; {hint}'
        ) from error
    found = program.model.opset_imports['']
    if found != opset:
        raise UsageError(f'--opset {opset}: torch {torch.__version__} exports to {found}')
    program.model.metadata_props.update(metadata)
    program.save(path, external_data=False)


def _cause(error: BaseException) -> str:
    """First line of the first of a chain of errors: later ones tell of the exporter's steps."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


class Difference(NamedTuple):
    """The largest differences in an output, as multiples of its standard deviation.

    Attributes:
        onnx: of onnxruntime from PyTorch, both in float32.
        rounding: of PyTorch in float32 from PyTorch in float64. The instance norm of ResT divides
            by small deviations, which magnifies rounding, in an untrained network most.
    """

    onnx: float
    rounding: float


def differences(
    path: Path, network: nn.Module, shapes: Sequence[Shape]
) -> Dict[Shape, Difference]:
    """How far a file in onnxruntime is from the network in PyTorch, for random images.

    Args:
        path: the file.
        network: what it was made of.
        shapes: of the images.

    Returns:
        Shape -> the difference.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    generator = torch.Generator().manual_seed(0)
    exact = copy.deepcopy(network).double()
    found = {}
    for batch, height, width in shapes:
        images = torch.randn(batch, 3, height, width, generator=generator)
        with torch.no_grad():
            expected, truth = (
                _tuple(f(x)) for f, x in ((network, images), (exact, images.double()))
            )
        computed = [
            torch.from_numpy(each) for each in session.run(None, {'images': images.numpy()})
        ]
        found[batch, height, width] = Difference(
            _largest(computed, expected), _largest(expected, truth)
        )
    return found


def _tuple(outputs: Union[Tensor, Sequence[Tensor]]) -> Sequence[Tensor]:
    return (outputs,) if isinstance(outputs, Tensor) else outputs


def _largest(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    return max(float((a - b).abs().max() / b.std()) for a, b in zip(found, expected))


def export_checked(
    network: nn.Module, path: Path, shapes: Sequence[Shape], tolerance: float, **options: object
) -> Dict[Shape, Difference]:
    """:func:`export`, but leave no file whose :func:`differences` exceed a tolerance.

    Args:
        network: what :func:`exportable` gave.
        path: the file.
        shapes: to compare at; none compares nothing.
        tolerance: the largest difference; three times PyTorch's own rounding is allowed, too.
        **options: of :func:`export`.

    Returns:
        The differences.

    Raises:
        UsageError: it cannot be exported, or computes something else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix='.onnx-') as folder:
        unchecked = Path(folder, path.name)
        export(network, unchecked, **options)
        found = differences(unchecked, network, shapes) if shapes else {}
        for (batch, height, width), difference in found.items():
            if not difference.onnx <= max(tolerance, 3 * difference.rounding):  # nan neither
                raise UsageError(
                    f'at {batch} x 3 x {height} x {width} the exported network differs by '
                    f'{difference.onnx:.1e} standard deviations, more than --tolerance '
                    f'{tolerance:g}; {path} is not written'
                )
        os.replace(unchecked, path)
    return found
