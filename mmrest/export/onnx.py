"""ONNX export of backbones, segmentors and detectors."""

import copy
import importlib.util
import json
import re
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.utils import digit_version, to_2tuple
from torch import Tensor, nn

from ..analysis.networks import Preprocessing, preprocessing
from ..engine.building import image_channels
from ..engine.config import type_name
from ..errors import UsageError, first_line
from ..inference.inferencer import classes_of, tested_dataset
from ..version import __version__

if TYPE_CHECKING:
    from onnx import ModelProto

# Packages of requirements/optional.txt; the last one is only for the comparison.
PACKAGES = ('onnx', 'onnxscript', 'onnxruntime')
Shape = Tuple[int, int, int]  # number of images, height and width
DYNAMIC_AXES = {0: 'batch', 2: 'height', 3: 'width'}  # and their names in a file


class Normalise(nn.Module):
    """Normalisation of BGR images with values from 0 to 255, as a network expects it."""

    def __init__(self, normalisation: Preprocessing) -> None:
        super().__init__()
        self.order = normalisation.order
        self.register_buffer('mean', torch.tensor(normalisation.mean)[:, None, None])
        self.register_buffer('std', torch.tensor(normalisation.std)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        channels = images.flip(1) if self.order == 'RGB' else images
        return (channels - self.mean) / self.std


class Segmentor(nn.Module):
    """mmseg segmentor from normalised images (B, 3, H, W) to logits (B, classes, H, W)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = with_any_size(copy.deepcopy(model))

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model.decode_head(self.model.extract_feat(images))
        if isinstance(logits, tuple):  # with those of auxiliary losses, such as EncHead's
            logits = logits[0]
        corners = self.model.align_corners
        return F.interpolate(logits, images.shape[2:], mode='bilinear', align_corners=corners)


def adaptive_avg_pool(bins: Tuple[int, int], x: Tensor) -> Tensor:
    """``F.adaptive_avg_pool2d`` as two matmuls, for maps of any size.

    ONNX has no adaptive pooling, and torch's exporter decomposes it for one size only. Bin i of k
    is the mean of the positions from ``floor(i L / k)`` up to ``ceil((i + 1) L / k)`` of L.
    """
    return _bins(x.shape[2], bins[0], x) @ x @ _bins(x.shape[3], bins[1], x).T


def _bins(length: int, bins: int, like: Tensor) -> Tensor:
    """Return the weight of each position in each bin, (bins, length)."""
    position = torch.arange(length, device=like.device)[None]
    number = torch.arange(bins, device=like.device)[:, None]
    start = number * length // bins
    end = ((number + 1) * length + bins - 1) // bins
    inside = ((position >= start) & (position < end)).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)


def with_any_size(model: nn.Module) -> nn.Module:
    """Change modules of an mmseg model that the exporter would fix to one size.

    mmseg's ``Upsample`` computes the size itself, in floating point: the file would give wrong
    results at other sizes, without an error.
    """
    from mmseg.models.utils import Upsample

    for module in model.modules():
        if type(module) is nn.AdaptiveAvgPool2d:
            module.forward = partial(adaptive_avg_pool, to_2tuple(module.output_size))
        elif type(module) is Upsample and not module.size and module.scale_factor % 1 == 0:
            options = dict(mode=module.mode, align_corners=module.align_corners)
            module.forward = partial(F.interpolate, scale_factor=module.scale_factor, **options)
    return model


def exportable(model: nn.Module, name: str) -> nn.Module:
    """Return an exportable network: a backbone, or a wrapped copy of a segmentor or detector.

    Raises:
        UsageError: the model cannot be exported; `name` names it.
    """
    channels = image_channels(model)
    if channels != 3:
        raise UsageError(f'{name} takes images of {channels} channels; export supports only 3')
    if not hasattr(model, 'backbone'):  # it is one
        return model
    head = getattr(model, 'decode_head', None)
    cascade = isinstance(head, nn.ModuleList)
    if head is not None and not cascade and not hasattr(head, 'num_queries'):  # of Mask2Former
        if (model.test_cfg or {}).get('mode', 'whole') != 'whole':
            raise UsageError(
                f'{name} tests in sliding windows, which export does not support; to export the '
                'network for whole images, pass --cfg-options model.test_cfg.mode=whole'
            )
        return Segmentor(model).eval()
    if hasattr(model, 'bbox_head') or hasattr(model, 'roi_head'):  # an mmdet detector
        from .detectors import Detector

        return Detector(model, name).eval()
    raise UsageError(
        f'{name} defines a {type(model).__name__}, not a backbone, segmentor with one head or '
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
    return hasattr(network, 'pad')


def facts(
    cfg: Config, name: str, preprocess: bool = False, trained: Optional[Dict[str, Any]] = None
) -> Dict[str, str]:
    """Return the metadata that users of the file need.

    Classes in `trained`, the meta information of the dataset in the checkpoint, are preferred to
    those of the config; it is None for a network without classes. With `preprocess`, the file
    normalises images.

    Raises:
        UsageError: the numbers of classes differ.
    """
    mean, std, order = preprocessing(cfg)
    values = 'values from 0 to 255' if preprocess else '(values from 0 to 255 - mean) / std'
    metadata = dict(
        network=name,
        input=f'images, float32, (batch, 3, height, width), {values}',
        # Normalisation in the file expects the channel order in which pipelines load images.
        channel_order='BGR' if preprocess else order,
        mean=json.dumps(mean),
        std=json.dumps(std),
        preprocess=json.dumps(preprocess),
        mmrest_version=__version__,
    )
    dataset, metainfo = tested_dataset(cfg)
    if trained is not None and (trained.get('classes') or metainfo.get('classes')):
        metadata['classes'] = json.dumps(classes_of(cfg, trained, metainfo)[0])
    for step in dataset.get('pipeline', ()):
        if type_name(step).endswith('Resize') and step.get('scale'):
            size = dict(scale=step['scale'], keep_ratio=step.get('keep_ratio', False))
            metadata['resize'] = json.dumps(size)  # scale as width and height
    test_cfg = cfg.model.get('test_cfg') or {}
    score = (test_cfg.get('rcnn') or test_cfg).get('score_thr')
    if score is not None:
        metadata['score_threshold'] = json.dumps(score)
    head = cfg.model.get('decode_head')
    channels = isinstance(head, dict) and (head.get('out_channels') or head.get('num_classes'))
    if channels == 1:
        threshold = head.get('threshold')  # mmseg's default is 0.3
        metadata['sigmoid_threshold'] = json.dumps(0.3 if threshold is None else threshold)
    return metadata


def check_packages(needed: Sequence[str]) -> None:
    """Raise UsageError if an optional package is missing or torch is too old."""
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        names = ' '.join(missing)
        raise UsageError(f'{names} of requirements/optional.txt not found: pip install {names}')
    if digit_version(torch.__version__) < digit_version('2.7'):
        raise UsageError(f'ONNX export needs torch 2.7 or later, got {torch.__version__}')


def export(
    network: nn.Module,
    size: Tuple[int, int],
    static: bool = False,
    opset: int = 18,
    metadata: Optional[Dict[str, str]] = None,
    normalise: Optional[Preprocessing] = None,
) -> 'ModelProto':
    """Return a network of :func:`exportable` as ONNX, weights included.

    Height and width of the example image are `size`, in pixels. The input has a dynamic number and
    size of images, or with `static`, it is one image of this size. With `normalise`, it is BGR
    images of 0 to 255; by default, it is normalised.

    Raises:
        UsageError: torch's exporter fails.
    """
    from onnx.helper import set_model_props

    front = [Normalise(normalise)] if normalise else []
    # torch treats a batch of one and maps of one pixel as constants.
    images, dynamic = torch.zeros(1, 3, *size), None
    if not static:
        images = torch.zeros(2, 3, *(max(side, 64) for side in size))
        dynamic = ({axis: torch.export.Dim.DYNAMIC for axis in DYNAMIC_AXES},)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter('ignore')
            if is_detector(network):
                model = _detector_model(network, front, images, dynamic, opset)
            else:
                whole = nn.Sequential(*front, network).eval()
                model = _model(whole, dict(images=images), output_names(network), dynamic, opset)
    except Exception as error:  # of any part of torch's exporter
        cause = error
        while cause.__cause__ is not None:  # later errors name the exporter's steps
            cause = cause.__cause__
        hint = '--backbone-only drops neck and head'
        if not static:
            hint = f'--static fixes batch and size, {hint}'
        raise UsageError(
            f'{type(network).__name__} cannot be exported: {first_line(cause)}; {hint}'
        ) from error
    exported = next(each.version for each in model.opset_import if not each.domain)
    if exported != opset:
        supported = f'torch {torch.__version__} exports to {exported}; pass --opset {exported}'
        raise UsageError(f'--opset {opset}: {supported}')
    set_model_props(model, metadata or {})
    return model


def _model(
    module: nn.Module,
    inputs: Dict[str, Tensor],
    outputs: Sequence[str],
    dynamic: Optional[Tuple],
    opset: int,
    **options: Any,
) -> 'ModelProto':
    # Exported first, because some of mmdet's modules fail in torch.onnx.export.
    given = tuple(inputs.values())
    program = torch.export.export(module, given, dynamic_shapes=dynamic, strict=False)
    program = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=opset,
        input_names=list(inputs),
        output_names=outputs,
        verbose=False,
        **options,
    )
    model = program.model_proto
    dims = model.graph.input[0].type.tensor_type.shape.dim
    names = {dims[axis].dim_param: name for axis, name in DYNAMIC_AXES.items()}  # torch has s0, s1
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r'\w+', lambda s: names.get(s[0], s[0]), dim.dim_param)
    return model


def _detector_model(
    network: nn.Module,
    front: List[nn.Module],
    images: Tensor,
    dynamic: Optional[Tuple],
    opset: int,
) -> 'ModelProto':
    """Export a detector for padded images and their size, and the padding before it.

    Padded sizes are multiples of a divisor, so the sizes of all maps are simple products. The
    sizes of unpadded images would lead to nested divisions, with which the exporter takes several
    times as long.
    """
    from onnx.compose import add_prefix, merge_models

    from .detectors import translations

    padded = ('padded', 'size')
    before = nn.Sequential(*front, network.pad).eval()
    before = _model(before, dict(images=images), padded, dynamic, opset)
    divisor, size = network.pad.divisor, images.shape[2:]
    rows, columns = (-(-length // divisor) for length in size)
    if dynamic:  # torch also treats a map of one row as a constant
        rows, columns = max(rows, 1024 // divisor), max(columns, 1536 // divisor)
        dims = {name: torch.export.Dim(name, max=2**20) for name in ('batch', 'rows', 'columns')}
        sides = {2: divisor * dims['rows'], 3: divisor * dims['columns']}
        dynamic = ({0: dims['batch'], **sides}, None)
    inputs = dict(
        padded=torch.zeros(len(images), 3, rows * divisor, columns * divisor),
        size=torch.tensor(size),
    )
    model = _model(
        network, inputs, output_names(network), dynamic, opset,
        custom_translation_table=translations(),
    )  # fmt: skip
    before = add_prefix(before, 'in_', rename_inputs=False, rename_outputs=False)
    return merge_models(before, model, io_map=list(zip(padded, padded)))
