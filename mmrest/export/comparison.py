"""Comparison of exported files with PyTorch, and with mmdet's detections."""

import copy
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from ..analysis.networks import Preprocessing
from ..checkpoint import write_atomically
from ..datasets.shapes import draw_scene
from ..errors import UsageError, explained
from .onnx import Normalise, Shape, export, is_detector, output_names

SCORE = 0.05  # lowest score of detections that are compared
SAME_BOX = 1.0  # largest difference between the corners of matched boxes, in pixels
MATCHED = 0.99  # share of detections that must match; overlaps may be at the threshold of NMS
SAME_MASK = 0.99  # minimum IoU between the masks of matched detections


class Agreement(NamedTuple):
    """Agreement of the detections of a file with mmdet's."""

    detections: int = 0  # of mmdet, with a score above SCORE
    unmatched: int = 0  # detections that only one side has
    score: float = 0.0  # largest difference of a score
    box: float = 0.0  # largest difference of a corner, in pixels
    mask: float = 1.0  # smallest IoU of masks; 1 without masks


class Difference(NamedTuple):
    """Largest differences of an output, in multiples of its standard deviation.

    For a detector, they are those of the maps of its dense head. The instance norm of ResT divides
    by small deviations, which magnifies rounding, mostly in untrained networks.
    """

    onnx: float  # onnxruntime from PyTorch, both in float32
    rounding: float  # PyTorch in float32 from PyTorch in float64
    agreement: Optional[Agreement] = None  # of a detector

    def fault(self, tolerance: float) -> Optional[str]:
        """Return how a file differs too much, or None."""
        if not self.onnx <= max(tolerance, 3 * self.rounding):  # or NaN
            return f'{self.onnx:.1e} standard deviations, more than --tolerance {tolerance:g}'
        agreed = self.agreement
        if agreed is None or 3 * self.rounding > tolerance:  # detections are also noise
            return None
        if agreed.unmatched > (1 - MATCHED) * agreed.detections:
            return f'{agreed.unmatched} of {agreed.detections} detections'
        if agreed.mask < SAME_MASK:
            return f'a mask whose IoU is {agreed.mask:.3f}'
        return None


def _differences(
    model: Any,
    network: nn.Module,
    shapes: Sequence[Shape],
    normalisation: Preprocessing,
    preprocess: bool,
    tolerance: float,
) -> Dict[Shape, Difference]:
    """Compare a network in onnxruntime and in PyTorch, see :func:`export_checked`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=['CPUExecutionProvider'])
    rng = np.random.default_rng(0)
    exact = copy.deepcopy(network).double()
    differences = {}
    for shape in shapes:
        loaded = np.stack([draw_scene(rng, *shape[1:])[0] for _ in range(shape[0])])  # BGR
        raw = torch.from_numpy(loaded).permute(0, 3, 1, 2).float()
        images = Normalise(normalisation)(raw)
        given = (raw if preprocess else images).numpy()
        with explained(
            f'onnxruntime fails on images of {shape}',
            'try --static, --backbone-only or another --shape',
        ):
            computed = [torch.from_numpy(part) for part in session.run(None, {'images': given})]
        with torch.no_grad():
            expected, truth = _outputs(network, images), _outputs(exact, images.double())
        maps, agreed = slice(None), None
        if is_detector(network):
            maps = slice(len(output_names(network)), None)
            instances = predicted(network, loaded)
            agreed = agreement(network, instances, computed, shape[1:], tolerance)
        differences[shape] = Difference(
            _largest_difference(computed[maps], expected[maps]),
            _largest_difference(expected[maps], truth[maps]),
            agreed,
        )
    return differences


def _outputs(network: nn.Module, images: Tensor) -> Sequence[Tensor]:
    outputs = network(*network.pad(images)) if is_detector(network) else network(images)
    return (outputs,) if isinstance(outputs, Tensor) else outputs


def _largest_difference(computed: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    pairs = [pair for pair in zip(computed, expected) if not torch.equal(*pair)]
    relative = [float((a - b).abs().max() / b.std(unbiased=False)) for a, b in pairs]
    return float(np.max(relative, initial=0))  # NaN if one is, unlike Python's max


def export_checked(
    network: nn.Module,
    path: Path,
    shapes: Sequence[Shape],
    tolerance: float,
    normalisation: Preprocessing,
    preprocess: bool = False,
    **options: object,
) -> Dict[Shape, Difference]:
    """Export a network of :func:`exportable`; keep no file that differs more than the tolerance.

    The file is compared at `shapes` (images, height, width), if there are any. Three times
    PyTorch's own rounding is always accepted. The tolerance is also the largest difference of
    detection scores. With `preprocess`, the file includes the normalisation that the network
    expects. For the options, see :func:`export`.

    Returns:
        Shape -> difference, on synthetic images.

    Raises:
        UsageError: the network cannot be exported, or the file computes something else.
    """
    import onnx

    model = export(network, normalise=normalisation if preprocess else None, **options)
    found = {}
    if shapes:
        found = _differences(model, network, shapes, normalisation, preprocess, tolerance)
    for (batch, height, width), difference in found.items():
        fault = difference.fault(tolerance)
        if fault:
            raise UsageError(
                f'at {batch} x 3 x {height} x {width} the exported network differs by {fault}; '
                f'{path} is not written'
            )
    if is_detector(network):
        del model.graph.output[len(output_names(network)) :]  # maps, for the comparison
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda temporary: onnx.save(model, temporary))
    return found


def predicted(network: nn.Module, images: Sequence[np.ndarray]) -> List[Any]:
    """Return mmdet's own instances in images (H, W, 3), uint8, as its pipelines load them."""
    from mmdet.structures import DetDataSample

    (model,) = network.original
    size = images[0].shape[:2]
    meta = dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
    samples = dict(
        inputs=[torch.from_numpy(image).permute(2, 0, 1) for image in images],
        data_samples=[DetDataSample(metainfo=meta) for _ in images],
    )
    with torch.no_grad():
        return [sample.pred_instances for sample in model.test_step(samples)]


def agreement(
    network: nn.Module,
    expected: Sequence[Any],
    computed: Sequence[Tensor],
    size: Tuple[int, int],
    tolerance: float,
) -> Agreement:
    """Match the detections of a file, `computed`, with those of :func:`predicted`.

    Scores may differ by the tolerance. A detection may be missing if its score is within the
    tolerance of the lowest score that is kept. Images have height and width `size`, in pixels.
    """
    (model,) = network.original
    cfg = (model.roi_head if hasattr(model, 'roi_head') else model.bbox_head).test_cfg
    outputs = computed[: len(output_names(network))]
    images = [
        _image_agreement(cfg, instances, [output[index] for output in outputs], size, tolerance)
        for index, instances in enumerate(expected)
    ]
    detections, unmatched, scores, boxes, ious = zip(*images)
    return Agreement(sum(detections), sum(unmatched), max(scores), max(boxes), min(ious))


def _image_agreement(
    cfg: Any, expected: Any, computed: Sequence[Tensor], size: Tuple[int, int], tolerance: float
) -> Agreement:
    """Match the detections of an image: boxes with scores (N, 5), labels (N), perhaps masks."""
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
    from scipy.optimize import linear_sum_assignment

    dets, labels, *_ = computed
    lowest_kept = float(dets[-1, 4]) if bool((labels >= 0).all()) else 0
    least = max(SCORE, cfg.get('score_thr', 0), lowest_kept) + tolerance
    expected = expected[expected.scores > SCORE]
    dets, labels, *masks = (output[dets[:, 4] > SCORE] for output in computed)
    boxes = (dets[:, None, :4] - expected.bboxes).abs().amax(-1)
    scores = (dets[:, None, 4] - expected.scores).abs()
    same = (labels[:, None] == expected.labels) & (scores <= tolerance) & (boxes <= SAME_BOX)
    pairs = linear_sum_assignment(torch.where(same, boxes, 1e6))
    rows, columns = (torch.from_numpy(index)[same[pairs]] for index in pairs)
    alone, missing = dets[:, 4] > least, expected.scores > least
    alone[rows] = missing[columns] = False
    ious = []
    if masks:
        pasted, _ = _do_paste_mask(masks[0][rows, None], dets[rows, :4], *size, skip_empty=False)
        pasted, others = pasted >= cfg.mask_thr_binary, expected.masks[columns]
        # Two pixels may differ, for small masks.
        differing = ((pasted ^ others).sum((1, 2)) - 2).clamp(min=0)
        ious = (1 - differing / (pasted | others).sum((1, 2)).clamp(min=1)).tolist()
    return Agreement(
        len(expected),
        int(alone.sum() + missing.sum()),
        max(scores[rows, columns].tolist(), default=0.0),
        max(boxes[rows, columns].tolist(), default=0.0),
        min(ious, default=1.0),
    )
