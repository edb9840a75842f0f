"""Token labelling with MixToken, which also classifies every token of the last map.

All Tokens Matter: Token Labeling for Training Better Vision Transformers (NeurIPS 2021,
https://arxiv.org/abs/2104.10858), as in the official code of RMT-S*, B* and L*.
"""

import functools
import math
from typing import Dict, List, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from mmpretrain.models import CutMix, LinearClsHead
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from .classifier import ReleasedClassifier


def sample_region(height: int, width: int) -> Tensor:
    """Sample the region of a grid of tokens that MixToken replaces, with numpy's generator.

    Its sides are the grid's, scaled by the square root of a share uniform in [0, 1] and rounded
    down to an even number of tokens. The centre is any token; the region is cropped to the grid.

    Returns:
        (height, width), True in the region.
    """
    edges = CutMix(alpha=1.0).rand_bbox((height, width), np.random.beta(1, 1))
    region = torch.zeros(height, width, dtype=torch.bool)
    region[edges[0] : edges[1], edges[2] : edges[3]] = True
    return region


def swap(x: Tensor, region: Tensor, cell: int = 1) -> Tensor:
    """Return a batch with one region taken from the flipped batch.

    Args:
        x: maps (B, ..., H, W).
        region: True in the region; one entry per cell.
        cell: height and width of a cell in `x`; cells at the border may be cropped.
    """
    fine = region.repeat_interleave(cell, 0).repeat_interleave(cell, 1).to(x.device)
    return torch.where(fine[: x.shape[-2], : x.shape[-1]], x.flip(0), x)


@MODELS.register_module()
class TokenLabelHead(LinearClsHead):
    """Head with two linear classifiers, one for the average and one for each token.

    Args:
        num_classes: number of classes.
        in_channels: channels of the average.
        token_channels: channels of the tokens.
        dense_weight: weight of the token loss, beta in equation 4 of All Tokens Matter.
        **kwargs: arguments of mmpretrain's LinearClsHead; `loss` must support soft labels
            (N, classes), as LabelSmoothLoss does.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        token_channels: int,
        dense_weight: float = 0.5,
        **kwargs: object,
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels, **kwargs)
        self.aux_fc = nn.Linear(token_channels, num_classes)
        self.dense_weight = dense_weight

    def pre_logits(self, feats: Tuple[Tensor, Tensor]) -> Tensor:
        return feats[0]

    def token_logits(self, feats: Tuple[Tensor, Tensor]) -> Tensor:
        """Return the logits (B, H, W, classes) of the tokens."""
        return self.aux_fc(feats[1].permute(0, 2, 3, 1))

    def forward(self, feats: Tuple[Tensor, Tensor]) -> Tensor:
        """Return the logits (B, classes): the average's plus half of the tokens' maximum.

        Args:
            feats: averages (B, in_channels) and tokens (B, token_channels, H, W).
        """
        # The tokens' maximum has half the weight, as in the official code.
        return super().forward(feats) + 0.5 * self.token_logits(feats).amax((1, 2))

    def loss(
        self, feats: Tuple[Tensor, Tensor], data_samples: List[DataSample], region: Tensor
    ) -> Dict[str, Tensor]:
        """Return the losses of a batch whose tokens were mixed.

        Args:
            feats: as for :meth:`forward`.
            data_samples: with ``token_label``, (classes, H, W) probabilities, and ``gt_score``
                or ``gt_label``, all unmixed.
            region: (H, W), True for tokens from the flipped batch.

        Raises:
            ValueError: dense labels are missing or have a different shape.
        """
        images, tokens = super().forward(feats), self.token_logits(feats)
        labels = swap(self._token_labels(data_samples, tokens), region)
        classes = self._class_labels(data_samples, images)
        share = int(region.sum()) / region.numel()
        classes = (1 - share) * classes + share * classes.flip(0)
        tokens, labels = tokens.flatten(0, 2), labels.permute(0, 2, 3, 1).flatten(0, 2)
        of_images = self.loss_module(images, classes, avg_factor=len(images))
        of_tokens = self.loss_module(tokens, labels, avg_factor=len(tokens))
        return dict(loss_cls=of_images, loss_dense=self.dense_weight * of_tokens)

    def _token_labels(self, data_samples: List[DataSample], logits: Tensor) -> Tensor:
        shape = (self.num_classes, *logits.shape[1:3])
        for sample in data_samples:
            given = tuple(sample.token_label.shape) if 'token_label' in sample else None
            if given != shape:
                raise ValueError(
                    f'the shape of token_label is {given}, but classes and tokens are {shape}: '
                    'add LoadTokenLabels with their num_classes and grid to the training '
                    "pipeline, and algorithm_keys=['token_label'] to PackInputs"
                )
        # CPU autocast to bfloat16 cannot stack float16.
        labels = torch.stack([sample.token_label.float() for sample in data_samples])
        return labels.to(logits.device)

    def _class_labels(self, data_samples: List[DataSample], images: Tensor) -> Tensor:
        if 'gt_score' in data_samples[0]:
            return torch.stack([sample.gt_score for sample in data_samples]).to(images.device)
        labels = torch.cat([sample.gt_label for sample in data_samples]).to(images.device)
        return F.one_hot(labels, self.num_classes).float()


@MODELS.register_module()
class TokenLabelClassifier(ReleasedClassifier):
    """Classifier trained with token labelling and MixToken.

    In training, one region of the tokens after the stem comes from the reversed batch. The region
    is aligned to the tokens of the last map, so that each of these has one label. Evaluation does
    not mix tokens and works without labels. The backbone must be from mmrest. The neck must return
    averages and tokens, as :class:`~mmrest.classification.projection.RMTTokenProjection` does. The
    head must be a :class:`TokenLabelHead`.
    """

    def own_name(self, name: str) -> str:
        first, _, rest = name.partition('.')
        return f'head.aux_fc.{rest}' if first == 'aux_head' else super().own_name(name)

    def loss(self, inputs: Tensor, data_samples: List[DataSample]) -> Dict[str, Tensor]:
        """Return the losses of images (B, 3, H, W), see :meth:`TokenLabelHead.loss`."""
        stride = self.backbone.out_strides[-1]
        region = sample_region(*(math.ceil(length / stride) for length in inputs.shape[2:]))
        mix = functools.partial(swap, region=region, cell=stride // self.backbone.arch.stem_stride)
        feats = self.neck(self.backbone(inputs, after_stem=mix))
        return self.head.loss(feats, data_samples, region)
