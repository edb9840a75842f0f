"""ONNX export of backbones, segmentors and detectors."""

import copy
import importlib.util
import inspect
import json
import logging
import warnings
from pathlib import Path
from typing import (
    Any,
    Dict,
    Iterable,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from torch import Tensor, nn

from ..analysis.networks import Preprocessing, backbone_of, preprocessing
from ..engine.building import find_type
from ..engine.config import dicts, first_line
from ..errors import UsageError
from ..version import __version__

PACKAGES = ('onnx', 'onnxscript', 'onnxruntime')
"""Packages of requirements/optional.txt; the last one is only for the comparison."""

IMAGENET = Preprocessing()

Shape = Tuple[int, int, int]
"""Number of images, height and width."""


class Segmentor(nn.Module):
    """mmseg segmentor from normalised images to logits of their size.

    Args:
        model: the segmentor; it is copied.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = _with_any_size(copy.deepcopy(model))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, classes, H, W) for images (B, 3, H, W)."""
        logits = self.model.decode_head(self.model.extract_feat(images))
        corners = self.model.align_corners
        return F.interpolate(logits, images.shape[2:], mode='bilinear', align_corners=corners)


class AdaptiveAvgPool(nn.Module):
    """``nn.AdaptiveAvgPool2d`` as two matmuls, for maps of any size.

    ONNX has no adaptive pooling, and torch's exporter decomposes it for one size only. Bin i of k
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
    """Return the weight of each position in each bin, (bins, length)."""
    position = torch.arange(length, device=like.device)[None]
    number = torch.arange(bins, device=like.device)[:, None]
    start = number * length // bins
    end = ((number + 1) * length + bins - 1) // bins
    inside = ((position >= start) & (position < end)).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)


class Upsample(nn.Module):
    """mmseg's ``Upsample`` by an integer factor, for maps of any size.

    mmseg computes the size in floating point, which the exporter treats as a constant: the file
    would give wrong results at other sizes, without an error.

    Args:
        factor: scale of rows and columns.
        mode: interpolation mode.
        align_corners: as for ``F.interpolate``.
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
    """Replace modules of an mmseg model that the exporter would fix to one size."""
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
    """Return an exportable network: the backbone, or a wrapped segmentor or detector.

    Args:
        model: in evaluation mode.
        name: name for error messages.

    Raises:
        UsageError: the model cannot be exported.
    """
    if backbone_of(model) is model:
        return model
    if isinstance(getattr(model, 'decode_head', None), nn.Module) and not isinstance(
        model.decode_head, nn.ModuleList
    ):
        return Segmentor(model).eval()
    if hasattr(model, 'bbox_head') or hasattr(model, 'roi_head'):  # of mmdet
        if 'custom_translation_table' not in inspect.signature(torch.onnx.export).parameters:
            raise UsageError(f'detectors need torch 2.6 or later, this is {torch.__version__}')
        from .detectors import Detector

        return Detector(model, name).eval()
    raise UsageError(
        f'{name} is a {type(model).__name__}, not a backbone, segmentor with one head or '
        'detector; pass --backbone-only to export its backbone'
    )


def output_names(network: nn.Module) -> List[str]:
    """Return the output names of an :func:`exportable` network."""
    if isinstance(network, Segmentor):
        return ['logits']
    if is_detector(network):
        return ['dets', 'labels', 'masks'][: 2 + network.with_masks]
    return [f'stage{index + 1}' for index in network.out_indices]


def is_detector(network: nn.Module) -> bool:
    """Return True for a detector of :func:`exportable`."""
    return hasattr(network, 'divisor')


def facts(cfg: Config, name: str, preprocess: bool = False) -> Dict[str, str]:
    """Return the metadata that users of the file need.

    Args:
        cfg: config of the network.
        name: name of the network.
        preprocess: the file includes normalisation.
    """
    mean, std, order = preprocessing(cfg)
    values = 'values from 0 to 255' if preprocess else '(values from 0 to 255 - mean) / std'
    found = dict(
        network=name,
        input=f'images, float32, (batch, 3, height, width), {values}',
        # Normalisation in the file expects the channel order in which pipelines load images.
        channel_order='BGR' if preprocess else order,
        mean=json.dumps(mean),
        std=json.dumps(std),
        preprocess=json.dumps(preprocess),
        mmrest_version=__version__,
    )
    loader = cfg.get('test_dataloader') or {}
    for _, part in dicts(loader, 'test_dataloader'):
        if part.get('pipeline'):
            with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmengine'):
                kind = find_type(DATASETS, part.get('type'))
            known = dict(getattr(kind, 'METAINFO', None) or {}, **(part.get('metainfo') or {}))
            if known.get('classes'):
                found['classes'] = json.dumps(known['classes'])
            for step in part['pipeline']:
                if step.get('type') == 'Resize' and step.get('scale'):
                    size = dict(scale=step['scale'], keep_ratio=step.get('keep_ratio', False))
                    found['resize'] = json.dumps(size)  # scale as width and height
            break
    test_cfg = cfg.model.get('test_cfg') or {}
    score = (test_cfg.get('rcnn') or test_cfg).get('score_thr')
    if score is not None:
        found['score_threshold'] = json.dumps(score)
    return found


def check_packages(needed: Iterable[str]) -> None:
    """Check that optional packages are installed.

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
    normalise: Optional[Preprocessing] = None,
) -> None:
    """Write an ONNX file, weights included.

    Args:
        network: result of :func:`exportable`.
        path: the file.
        size: height and width of the example image, in pixels.
        static: fix the input to one image of this size; by default, number and size are free.
        opset: ONNX opset version.
        metadata: metadata of the file.
        normalise: normalisation to include, for BGR images of 0 to 255; by default, the input is
            normalised.

    Raises:
        UsageError: torch's exporter fails.
    """
    logging.getLogger('torch.onnx').setLevel(logging.ERROR)  # it warns about unused ops
    names = output_names(network)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter('ignore')
            if is_detector(network):
                program = _detector_program(network, size, static, opset, names)
            else:
                free = None if static else ({0: 'batch', 2: 'height', 3: 'width'},)
                program = torch.onnx.export(
                    network,
                    (_zeros(size, static),),
                    dynamo=True,
                    dynamic_shapes=free,
                    opset_version=opset,
                    input_names=['images'],
                    output_names=names,
                    verbose=False,
                )
    except Exception as error:  # of any part of torch's exporter
        hint = '--backbone-only drops neck and head'
        if not static:
            hint = f'--static fixes batch and size, {hint}'
        raise UsageError(
            f'{type(network).__name__} cannot be exported: {_cause(error)}; {hint}'
        ) from error
    found = program.model.opset_imports['']
    if found != opset:
        raise UsageError(f'--opset {opset}: torch {torch.__version__} exports to {found}')
    program.save(path, external_data=False)
    shape = (1, *size) if static else ('batch', 'height', 'width')
    _finish(network, path, shape, metadata, normalise)


def _zeros(size: Tuple[int, int], static: bool) -> Tensor:
    return torch.zeros(1 if static else 2, 3, *size)  # torch treats a batch of one as a constant


def _detector_program(
    network: nn.Module, size: Tuple[int, int], static: bool, opset: int, names: List[str]
) -> Any:
    """Export a detector, whose inputs are padded images and their size before padding."""
    from .detectors import translations

    divisor = network.divisor
    rows, columns = (-(-length // divisor) for length in size)
    if not static:  # torch treats a map of one row as a constant, too
        rows, columns = max(rows, 1024 // divisor), max(columns, 1536 // divisor)
    free = None
    if not static:
        # As multiples, the sizes of all maps are simple products. Padding inside the graph would
        # become nested divisions, with which the exporter takes several times as long.
        free = (
            {
                0: torch.export.Dim('batch'),
                2: divisor * torch.export.Dim('rows'),
                3: divisor * torch.export.Dim('columns'),
            },
            None,
        )
    images = _zeros((rows * divisor, columns * divisor), static)
    # Exported first, because some of mmdet's modules fail in torch.onnx.export.
    program = torch.export.export(
        network, (images, torch.tensor(size)), dynamic_shapes=free, strict=False
    )
    return torch.onnx.export(
        program,
        dynamo=True,
        opset_version=opset,
        input_names=['padded', 'size'],
        output_names=names,
        custom_translation_table=translations(),
        verbose=False,
    )


def _finish(
    network: nn.Module,
    path: Path,
    shape: Sequence[Union[int, str]],
    metadata: Mapping[str, str],
    normalise: Optional[Preprocessing],
) -> None:
    """Prepend normalisation and padding to a network, and add metadata to its file."""
    import onnx

    model = onnx.load(path)
    inside = is_detector(network)  # the padding
    if normalise or inside:
        version = next(each.version for each in model.opset_import if not each.domain)
        batch, height, width = shape
        lines, images = [], 'images'
        if normalise:
            order = (2, 1, 0) if normalise.order == 'RGB' else (0, 1, 2)
            mean, std, order = (
                f'{{{", ".join(map(str, each))}}}'
                for each in (normalise.mean, normalise.std, order)
            )
            lines = [
                f'in_order = Constant<value = int64[3] {order}>()',
                'in_channels = Gather<axis = 1>(images, in_order)',
                f'in_mean = Constant<value = float[1, 3, 1, 1] {mean}>()',
                f'in_std = Constant<value = float[1, 3, 1, 1] {std}>()',
                'in_centred = Sub(in_channels, in_mean)',
                'in_normal = Div(in_centred, in_std)',
            ]
            images = 'in_normal'
        outputs, links = f'float[{batch}, 3, in_h, in_w] in_images', []
        if inside:
            for output in model.graph.output:  # named by torch, with a symbol
                if not isinstance(batch, int):
                    output.type.tensor_type.shape.dim[0].dim_param = batch
            lines += [
                'in_size = Shape<start = 2>(images)',
                f'in_divisor = Constant<value = int64[1] {{{network.divisor}}}>()',
                'in_negative = Neg(in_size)',
                'in_missing = Mod(in_negative, in_divisor)',
                'in_none = Constant<value = int64[6] {0, 0, 0, 0, 0, 0}>()',
                'in_pads = Concat<axis = 0>(in_none, in_missing)',
                f'in_value = Constant<value = float {{{float(network.pad_value)}}}>()',
                f'in_images = Pad({images}, in_pads, in_value)',
            ]
            outputs += ', int64[2] in_size'
            links = [('in_images', 'padded'), ('in_size', 'size')]
        else:
            lines.append(f'in_images = Identity({images})')
        body = '\n'.join(lines)
        before = onnx.parser.parse_model(
            f'<ir_version: {model.ir_version}, opset_import: ["" : {version}]>\n'
            f'before (float[{batch}, 3, {height}, {width}] images) => ({outputs}) {{\n{body}\n}}'
        )
        if not inside:
            # The network's input has the name of the new one.
            for node in model.graph.node:
                node.input[:] = ['in_images' if name == 'images' else name for name in node.input]
            model.graph.input[0].name = 'in_images'
            links = [('in_images', 'in_images')]
        model = onnx.compose.merge_models(before, model, io_map=links)
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.save(model, path)


def _cause(error: BaseException) -> str:
    """Return the first line of the original error; later ones name the exporter's steps."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
