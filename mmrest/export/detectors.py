"""mmdet detectors with a fixed number of boxes, for export to ONNX."""

import copy
from functools import partial
from typing import Any, Callable, Dict, List, Sequence, Tuple

import torch
import torch.nn.functional as F
import torchvision.ops
from torch import Tensor, nn

from ..errors import UsageError

NOT_FOUND = -1.0
"""Score of padding and of suppressed boxes."""


@torch.library.custom_op('mmrest::nms', mutates_args=())
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, max_per_image: int) -> Tensor:
    """Suppress boxes (B, N, 4), as x1, y1, x2, y2, whose IoU with a better one is too large.

    Returns:
        (B, N), the scores of the kept boxes, at most `max_per_image`, and :data:`NOT_FOUND` for
        the others; boxes with this score are not kept.
    """
    kept = torch.full_like(scores, NOT_FOUND)
    for row, (image_boxes, image_scores) in enumerate(zip(boxes, scores)):
        valid = (image_scores > NOT_FOUND).nonzero()[:, 0]
        order = torchvision.ops.nms(image_boxes[valid], image_scores[valid], iou_threshold)
        best = valid[order[:max_per_image]]
        kept[row, best] = image_scores[best]
    return kept


@nms.register_fake
def _(boxes, scores, iou_threshold, max_per_image):
    return torch.empty_like(scores)


def translations() -> Dict[Callable, Callable]:
    """Return the ONNX translations of the custom ops, for ``torch.onnx.export``."""
    from onnxscript import opset18 as op

    def onnx_nms(boxes, scores, iou_threshold, max_per_image):
        # ONNX expects y, x, y, x, which does not change an overlap.
        selected = op.NonMaxSuppression(
            boxes,
            op.Unsqueeze(scores, op.Constant(value_ints=[1])),
            op.Constant(value_ints=[max_per_image]),
            op.Constant(value_floats=[iou_threshold]),
            op.Constant(value_floats=[NOT_FOUND]),
        )
        where = op.Gather(selected, op.Constant(value_ints=[0, 2]), axis=1)  # image and box
        nothing = op.Expand(op.Constant(value_floats=[NOT_FOUND]), op.Shape(scores))
        return op.ScatterND(nothing, where, op.GatherND(scores, where))

    return {torch.ops.mmrest.nms.default: onnx_nms}


class RoIExtractor(nn.Module):
    """mmdet's ``SingleRoIExtractor`` for any number of regions per level, without its hooks."""

    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        self.extractor = extractor
        self.num_inputs = extractor.num_inputs

    def forward(self, maps: Sequence[Tensor], rois: Tensor) -> Tensor:
        """Return features (K, C, rows, columns) of the regions (K, 5)."""
        rois = rois.to(maps[0].dtype)
        levels = self.extractor.map_roi_levels(rois, len(maps))
        pooled = 0
        for level, (features, layer) in enumerate(zip(maps, self.extractor.roi_layers)):
            here = (levels == level).to(rois)[:, None]
            aligned = torchvision.ops.roi_align(
                features,
                rois * here,  # regions of other levels are empty, which costs nothing
                layer.output_size,
                layer.spatial_scale,
                layer.sampling_ratio,
                layer.aligned,
            )
            pooled = pooled + aligned * here[..., None, None]
        return pooled


def _clipped(decode: Callable, anchors: Tensor, deltas: Tensor, max_shape: Tensor) -> Tensor:
    """Decode anchors and deltas (N, 4) to boxes (N, 4), clipped to height and width, a tensor."""
    boxes = decode(anchors, deltas)
    return boxes.clamp(min=0).minimum(max_shape[[1, 0, 1, 0]].to(boxes.dtype))


class Pad(nn.Module):
    """mmdet's padding of normalised images to multiples of a divisor."""

    def __init__(self, divisor: int, value: float) -> None:
        super().__init__()
        self.divisor = divisor
        self.value = value

    def forward(self, images: Tensor) -> Tuple[Tensor, Tensor]:
        """Return padded images, and height and width without padding, in pixels; int64."""
        height, width = images.shape[2:]
        size = torch.stack([torch.scalar_tensor(n, dtype=torch.int64) for n in (height, width)])
        missing = (0, -width % self.divisor, 0, -height % self.divisor)
        return F.pad(images, missing, value=self.value), size


class Detector(nn.Module):
    """mmdet detector from normalised images to boxes, classes and masks.

    It follows mmdet's own prediction step by step, but computes all images of a batch at once, and
    pads results to a fixed number.

    Raises:
        UsageError: the model, called `name`, does not predict like RetinaNet, Faster, Mask or
            Cascade R-CNN.
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        from mmdet.models.roi_heads import SingleRoIExtractor

        super().__init__()
        _check(model, name)
        self.original = (model,)  # in a tuple, so that it is not a submodule
        self.model = copy.deepcopy(model)
        for module in list(self.model.modules()):
            for key, child in module._modules.items():
                if isinstance(child, SingleRoIExtractor):
                    setattr(module, key, RoIExtractor(child))
            coder = getattr(module, 'bbox_coder', None)
            if getattr(coder, 'clip_border', False) and not isinstance(coder.decode, partial):
                coder.decode = partial(_clipped, coder.decode)
        preprocessor = model.data_preprocessor
        self.pad = Pad(preprocessor.pad_size_divisor, float(preprocessor.pad_value))
        self.with_masks = model.with_mask

    def forward(self, images: Tensor, size: Tensor) -> Tuple[Tensor, ...]:
        """Return up to K detections per image, and the maps of the dense head.

        Args:
            images: (B, 3, H, W), padded by :attr:`pad`.
            size: height and width without padding.

        Returns:
            Boxes and scores (B, K, 5), as x1, y1, x2, y2 in pixels and score, by descending score;
            classes (B, K); masks (B, K, rows, columns) as probabilities inside the boxes, if the
            detector predicts them; and the maps of the dense head. In padding, boxes and scores
            are 0 and classes -1.
        """
        model = self.model
        maps = model.extract_feat(images)
        if not hasattr(model, 'roi_head'):
            dense, (boxes, scores, labels) = _dense(model.bbox_head, maps, size, is_rpn=False)
            masks = ()
        else:
            dense, (proposals, objectness, _) = _dense(model.rpn_head, maps, size, is_rpn=True)
            boxes, scores, labels = self._classified(maps, proposals, objectness, size)
            masks = (self._masks(maps, boxes, labels),) if self.with_masks else ()
        is_found = scores > NOT_FOUND
        dets = torch.cat([boxes, scores[..., None]], -1) * is_found[..., None]
        return (dets, torch.where(is_found, labels, -1), *masks, *dense)

    def _classified(
        self, maps: Sequence[Tensor], proposals: Tensor, objectness: Tensor, size: Tensor
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """Return boxes, scores and classes for proposals (B, R, 4)."""
        roi_head, cfg = self.model.roi_head, self.model.roi_head.test_cfg
        batch, regions = proposals.shape[:2]
        rois, head = _rois(proposals), roi_head.bbox_head
        if isinstance(head, nn.ModuleList):
            # To mmdet, the batch is one image, because all have the same size.
            (rois,), (logits,), (deltas,) = roi_head._refine_roi(
                maps, rois, [dict(img_shape=size)], (rois.shape[0],)
            )
            head = head[-1]
        else:
            outputs = roi_head._bbox_forward(maps, rois)
            logits, deltas = outputs['cls_score'], outputs['bbox_pred']
        custom = head.custom_cls_channels
        scores = head.loss_cls.get_activation(logits) if custom else logits.softmax(-1)
        scores = scores[:, :-1].reshape(batch, regions, -1)
        classes = scores.shape[2]
        is_found = (objectness[..., None] > NOT_FOUND) & (scores > cfg.score_thr)
        scores = torch.where(is_found, scores, NOT_FOUND)
        kinds = 1 if head.reg_class_agnostic else classes
        boxes = head.bbox_coder.decode(
            rois[:, 1:].repeat_interleave(kinds, dim=0),
            deltas.reshape(-1, head.bbox_coder.encode_size),
            max_shape=size,
        )
        boxes = boxes.reshape(batch, regions, kinds, 4).expand(-1, -1, classes, -1)
        labels = torch.arange(classes, device=boxes.device).repeat(regions).expand(batch, -1)
        return _after_nms(boxes.reshape(batch, -1, 4), scores.reshape(batch, -1), labels, cfg)

    def _masks(self, maps: Sequence[Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
        """Return mask probabilities (B, K, rows, columns) of boxes (B, K, 4) and classes."""
        roi_head = self.model.roi_head
        rois = _rois(boxes)
        if isinstance(roi_head.bbox_head, nn.ModuleList):
            stages = [
                roi_head._mask_forward(stage, maps, rois)['mask_preds'].sigmoid()
                for stage in range(roi_head.num_stages)
            ]
            probabilities, head = torch.stack(stages).mean(0), roi_head.mask_head[-1]
        else:
            probabilities = roi_head._mask_forward(maps, rois)['mask_preds'].sigmoid()
            head = roi_head.mask_head
        if head.class_agnostic:
            chosen = probabilities[:, 0]
        else:
            index = labels.reshape(-1, 1, 1, 1).expand(-1, -1, *probabilities.shape[2:])
            chosen = probabilities.gather(1, index)[:, 0]
        return chosen.unflatten(0, labels.shape)


def _check(model: nn.Module, name: str) -> None:
    from mmcv.ops import RoIAlign
    from mmdet.models import dense_heads, detectors, roi_heads
    from mmdet.models.dense_heads.base_dense_head import BaseDenseHead

    def check(fits: bool, part: str) -> None:
        if not fits:
            raise UsageError(
                f'{name}: {part} cannot be exported; use RetinaNet, Faster, Mask or Cascade '
                'R-CNN, or pass --backbone-only'
            )

    def check_predictions(part: nn.Module, usual: type, *methods: str) -> None:
        own = [getattr(type(part), method, None) is getattr(usual, method) for method in methods]
        check(all(own), f'a {type(part).__name__}')

    def check_nms(cfg: Any) -> None:
        options = dict(cfg.get('nms') or {})
        usual = not options.keys() - {'type', 'iou_threshold', 'split_thr', 'class_agnostic'}
        check(usual and options.get('type') == 'nms', f'NMS as {options}')

    two_stages = hasattr(model, 'roi_head')
    usual = detectors.TwoStageDetector if two_stages else detectors.SingleStageDetector
    check_predictions(model, usual, 'predict', 'extract_feat')
    head = getattr(model, 'rpn_head' if two_stages else 'bbox_head', None)
    check(head is not None, f'a {type(model).__name__} without an RPN')
    check_predictions(
        head, dense_heads.RPNHead if two_stages else BaseDenseHead,
        'predict', 'predict_by_feat', '_predict_by_feat_single', '_bbox_post_process',
    )  # fmt: skip
    check_nms(head.test_cfg)
    check(head.test_cfg.get('nms_pre', -1) > 0, 'a dense head without test_cfg.nms_pre')
    if not two_stages:
        return
    roi_head = model.roi_head
    known = (roi_heads.StandardRoIHead, roi_heads.CascadeRoIHead)
    check(type(roi_head) in known, f'a {type(roi_head).__name__}')
    check_nms(roi_head.test_cfg)
    for part in roi_head.modules():
        if isinstance(part, roi_heads.BBoxHead):
            check_predictions(part, roi_heads.BBoxHead, 'predict_by_feat', 'regress_by_class')
        elif isinstance(part, roi_heads.FCNMaskHead):
            check_predictions(part, roi_heads.FCNMaskHead, 'predict_by_feat')
        elif isinstance(part, roi_heads.BaseRoIExtractor):
            check_predictions(part, roi_heads.SingleRoIExtractor, 'forward', 'map_roi_levels')
            for layer in part.roi_layers:
                check(type(layer) is RoIAlign and layer.pool_mode == 'avg', f'{layer}')


def _rois(boxes: Tensor) -> Tensor:
    """Flatten boxes (B, K, 4) to (B K, 5), with the index of the image first."""
    image = torch.arange(boxes.shape[0], device=boxes.device, dtype=boxes.dtype)
    image = image[:, None, None].expand(-1, boxes.shape[1], -1)
    return torch.cat([image, boxes], -1).reshape(-1, 5)


def _dense(
    head: nn.Module, maps: Sequence[Tensor], size: Tensor, is_rpn: bool
) -> Tuple[List[Tensor], Tuple[Tensor, Tensor, Tensor]]:
    """Return the maps of a dense head, and its boxes, scores and classes."""
    outputs = head(maps)
    dense_maps = [level for kind in outputs for level in kind]
    cfg, coder = head.test_cfg, head.bbox_coder
    priors = head.prior_generator.grid_priors(
        [level.shape[-2:] for level in outputs[0]], outputs[0][0].dtype, maps[0].device
    )
    per_level = []
    for level, (anchors, logits, deltas, *factors) in enumerate(zip(priors, *outputs)):
        logits = _per_anchor(logits, head.cls_out_channels)
        if getattr(head.loss_cls, 'custom_cls_channels', False):
            scores = head.loss_cls.get_activation(logits)
        else:
            scores = logits.sigmoid() if head.use_sigmoid_cls else logits.softmax(-1)[..., :-1]
        classes = scores.shape[-1]
        # Padded, because a small map may have fewer.
        scores = F.pad(scores.flatten(1), (0, cfg.nms_pre), value=NOT_FOUND)
        best, index = scores.topk(cfg.nms_pre)
        index = torch.where(best > NOT_FOUND, index, 0)
        where = index // classes
        deltas = _gathered(_per_anchor(deltas, coder.encode_size), where)
        labels = torch.full_like(index, level) if is_rpn else index % classes
        if not is_rpn:
            best = torch.where(best > cfg.get('score_thr', 0), best, NOT_FOUND)
        for factor in factors:  # the centerness of ATSS and FCOS
            factor = _gathered(_per_anchor(factor, 1), where)[..., 0].sigmoid()
            best = torch.where(best > NOT_FOUND, best * factor, NOT_FOUND)
        per_level.append([anchors[where], deltas, best, labels])
    anchors, deltas, scores, labels = (torch.cat(part, 1) for part in zip(*per_level))
    boxes = coder.decode(anchors.flatten(0, 1), deltas.flatten(0, 1), max_shape=size)
    boxes = boxes.reshape(maps[0].shape[0], -1, 4)
    least = cfg.get('min_bbox_size', -1)
    if least >= 0:
        large = (boxes[..., 2:] - boxes[..., :2] > least).all(-1)
        scores = torch.where(large, scores, NOT_FOUND)
    return dense_maps, _after_nms(boxes, scores, labels, cfg)


def _per_anchor(x: Tensor, channels: int) -> Tensor:
    """Reshape (B, A channels, H, W) to (B, H W A, channels)."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, channels)


def _gathered(x: Tensor, index: Tensor) -> Tensor:
    """Gather (B, K, C) from (B, N, C) at the indices (B, K)."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))


def _after_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, cfg: Any
) -> Tuple[Tensor, Tensor, Tensor]:
    """Return the boxes, scores and groups that NMS keeps, by descending score.

    Boxes of different groups do not suppress each other, unless NMS is class-agnostic.
    """
    apart = boxes
    if not cfg.nms.get('class_agnostic'):
        # As in mmcv, groups are shifted by more than the largest coordinate.
        largest = (boxes * (scores > NOT_FOUND)[..., None]).amax((1, 2))
        apart = boxes + (groups * (largest + 1)[:, None])[..., None]
    count = min(cfg.max_per_img, scores.shape[1])
    kept = nms(apart, scores, cfg.nms.iou_threshold, count)
    best, index = kept.topk(count)
    return _gathered(boxes, index), best, groups.gather(1, index)
