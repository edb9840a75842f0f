"""Comparison of exported files with PyTorch, and with mmdet's detections."""

import copy
import os
import tempfile
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from torch import Tensor, nn

from ..analysis.networks import Preprocessing
from ..datasets.shapes import draw_scene
from ..errors import UsageError
from .onnx import IMAGENET, Shape, export, is_detector, output_names

SCORE = 0.05
"""Lowest score of detections that are compared."""

SAME_BOX = 1.0
"""Largest difference between the corners of matched boxes, in pixels."""

MATCHED = 0.99
"""Share of detections that must match; overlaps may be at the threshold of NMS."""

SAME_MASK = 0.99
"""Minimum IoU between the masks of matched detections."""


class Agreement(NamedTuple):
    """Agreement of the detections of a file with mmdet's.

    Attributes:
        detections: number of mmdet's above :data:`SCORE`.
        unmatched: number of detections that only one side has.
        score: largest difference of a score.
        box: largest difference of a corner, in pixels.
        mask: smallest IoU of masks; 1 without masks.
    """

    detections: int = 0
    unmatched: int = 0
    score: float = 0.0
    box: float = 0.0
    mask: float = 1.0


class Difference(NamedTuple):
    """Largest differences of an output, in multiples of its standard deviation.

    Attributes:
        onnx: onnxruntime from PyTorch, both in float32.
        rounding: PyTorch in float32 from PyTorch in float64. The instance norm of ResT divides by
            small deviations, which magnifies rounding, mostly in untrained networks.
        agreement: agreement of detections with mmdet's, for a detector; the differences are then
            those of the maps of its dense head.
    """

    onnx: float
    rounding: float
    agreement: Optional[Agreement] = None


def differences(
    path: Path,
    network: nn.Module,
    shapes: Sequence[Shape],
    normalisation: Preprocessing = IMAGENET,
    inside: bool = False,
    tolerance: float = 1e-3,
) -> Dict[Shape, Difference]:
    """Compare a file in onnxruntime with the network in PyTorch, on synthetic images.

    Args:
        path: the file.
        network: the exported network.
        shapes: shapes of the images.
        normalisation: normalisation that the network expects.
        inside: the file includes normalisation.
        tolerance: largest difference between the scores of matched detections.

    Returns:
        Shape -> difference.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    rng = np.random.default_rng(0)
    exact = copy.deepcopy(network).double()
    mean, std = (torch.tensor(each)[:, None, None] for each in normalisation[:2])
    found = {}
    for shape in shapes:
        loaded = np.stack([draw_scene(rng, *shape[1:])[0] for _ in range(shape[0])])  # BGR
        raw = torch.from_numpy(loaded).permute(0, 3, 1, 2).float()
        images = ((raw.flip(1) if normalisation.order == 'RGB' else raw) - mean) / std
        given = (raw if inside else images).numpy()
        computed = [torch.from_numpy(each) for each in session.run(None, {'images': given})]
        extra = ()
        if is_detector(network):
            extra = (torch.tensor(shape[1:]),)
            images = network.padded(images)
        with torch.no_grad():
            expected, truth = (
                _tuple(f(x, *extra)) for f, x in ((network, images), (exact, images.double()))
            )
        first = len(output_names(network)) if extra else 0
        difference = Difference(
            _largest(computed[first:], expected[first:]),
            _largest(expected[first:], truth[first:]),
        )
        if extra:
            instances = predicted(network, loaded)
            agreed = agreement(network, instances, computed, shape[1:], tolerance)
            difference = difference._replace(agreement=agreed)
        found[shape] = difference
    return found


def _tuple(outputs: Union[Tensor, Sequence[Tensor]]) -> Sequence[Tensor]:
    return (outputs,) if isinstance(outputs, Tensor) else outputs


def _largest(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    return max(float((a - b).abs().max() / b.std()) for a, b in zip(found, expected))


def export_checked(
    network: nn.Module,
    path: Path,
    shapes: Sequence[Shape],
    tolerance: float,
    normalisation: Preprocessing = IMAGENET,
    preprocess: bool = False,
    **options: object,
) -> Dict[Shape, Difference]:
    """Export a network and compare it; keep no file whose differences exceed the tolerance.

    Args:
        network: result of :func:`exportable`.
        path: the file.
        shapes: shapes to compare at; empty to skip the comparison.
        tolerance: largest difference; three times PyTorch's own rounding is always accepted. It
            is also the largest difference of detection scores.
        normalisation: normalisation that the network expects.
        preprocess: include normalisation in the file.
        **options: arguments of :func:`export`.

    Returns:
        See :func:`differences`.

    Raises:
        UsageError: the network cannot be exported, or the file computes something else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix='.onnx-') as folder:
        unchecked = Path(folder, path.name)
        export(network, unchecked, normalise=normalisation if preprocess else None, **options)
        found = (
            differences(unchecked, network, shapes, normalisation, preprocess, tolerance)
            if shapes
            else {}
        )
        for (batch, height, width), difference in found.items():
            fault = _fault(difference, tolerance)
            if fault:
                raise UsageError(
                    f'at {batch} x 3 x {height} x {width} the exported network differs by '
                    f'{fault}; {path} is not written'
                )
        if is_detector(network):
            _without_maps(unchecked, len(output_names(network)))
        os.replace(unchecked, path)
    return found


def _fault(difference: Difference, tolerance: float) -> Optional[str]:
    """Return how a file differs too much, or None."""
    if not difference.onnx <= max(tolerance, 3 * difference.rounding):  # NaN is too much
        return f'{difference.onnx:.1e} standard deviations, more than --tolerance {tolerance:g}'
    agreed = difference.agreement
    if agreed is None or 3 * difference.rounding > tolerance:  # detections are noise, too
        return None
    if agreed.unmatched > (1 - MATCHED) * agreed.detections:
        return f'{agreed.unmatched} of {agreed.detections} detections'
    if agreed.mask < SAME_MASK:
        return f'a mask whose IoU is {agreed.mask:.3f}'
    return None


def _without_maps(path: Path, outputs: int) -> None:
    """Keep only the first outputs of a file; the others are for the comparison."""
    import onnx

    model = onnx.load(path)
    del model.graph.output[outputs:]
    onnx.save(model, path)


def predicted(network: nn.Module, images: Sequence[np.ndarray]) -> List[Any]:
    """Return mmdet's own prediction for images as its pipelines load them.

    Args:
        network: the exported detector.
        images: (H, W, 3) each, uint8, of one size.

    Returns:
        Instances of each image, in its pixels.
    """
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
    network: nn.Module, expected: Sequence[Any], found: Sequence[Tensor], size: Tuple[int, int],
    tolerance: float,
) -> Agreement:  # fmt: skip
    """Match the detections of a file with mmdet's.

    A detection may be missing if its score is within the tolerance of the lowest score that is
    kept.

    Args:
        network: the exported detector.
        expected: results of :func:`predicted`.
        found: dets, labels and, if the detector predicts them, masks of the file.
        size: height and width of the images, in pixels.
        tolerance: largest difference of matched scores.
    """
    (model,) = network.original
    cfg = (model.roi_head if hasattr(model, 'roi_head') else model.bbox_head).test_cfg
    total = Agreement()
    for image, instances in enumerate(expected):
        dets, labels = found[0][image], found[1][image]
        count = int((labels >= 0).sum())
        full = count == len(labels)
        least = max(SCORE, cfg.get('score_thr', 0), float(dets[-1, 4]) if full else 0) + tolerance
        free = [i for i in range(count) if dets[i, 4] > SCORE]
        pairs, missing = [], 0
        for number, (box, score, label) in enumerate(
            zip(instances.bboxes, instances.scores, instances.labels)
        ):
            if score <= SCORE:
                continue
            away = {
                i: float((dets[i, :4] - box).abs().max())
                for i in free
                if labels[i] == label and (dets[i, 4] - score).abs() <= tolerance
            }
            nearest = min(away, key=away.get, default=None)
            if nearest is not None and away[nearest] <= SAME_BOX:
                pairs.append((number, nearest))
                free.remove(nearest)
            else:
                missing += int(score > least)
        missing += sum(bool(dets[i, 4] > least) for i in free)
        ours, theirs = [list(each) for each in zip(*pairs)] or ([], [])
        differences = (
            dets[theirs, :4] - instances.bboxes[ours],
            dets[theirs, 4] - instances.scores[ours],
        )
        box, score = (float(each.abs().max()) if pairs else 0.0 for each in differences)
        mask = 1.0
        if network.with_masks and pairs:
            pasted = _pasted(model, found[2][image, theirs], dets[theirs, :4], size)
            mask = _smallest_iou(pasted, instances.masks[ours])
        total = Agreement(
            total.detections + int((instances.scores > SCORE).sum()), total.unmatched + missing,
            max(total.score, score), max(total.box, box), min(total.mask, mask),
        )  # fmt: skip
    return total


def _pasted(model: nn.Module, masks: Tensor, boxes: Tensor, size: Tuple[int, int]) -> Tensor:
    """Paste probabilities inside boxes into binary masks of the image, (K, H, W)."""
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    pasted, _ = _do_paste_mask(masks[:, None], boxes, *size, skip_empty=False)
    return pasted >= model.roi_head.test_cfg.mask_thr_binary


def _smallest_iou(masks: Tensor, others: Tensor) -> float:
    """Return the smallest IoU of pairs of masks, without two pixels, for small masks."""
    differing = ((masks ^ others).flatten(1).sum(1) - 2).clamp(min=0)
    union = (masks | others).flatten(1).sum(1).clamp(min=1)
    return float((1 - differing / union).min())
