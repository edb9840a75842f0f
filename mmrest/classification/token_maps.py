"""Dense labels of images, cut to what augmentation has left of them.

A file holds the k best classes of a teacher at every cell of a grid over the whole image, as the
Token Labeling project (https://github.com/zihangJiang/TokenLabeling) writes them. The transforms
here remember where in the original image each pixel comes from, its *place*, so that the labels of
the tokens can be read off wherever crop, flip and RandAugment have moved the image.
"""

import copy
import os.path as osp
from typing import Any, Dict, Tuple, Union

import cv2
import mmcv
import numpy as np
import torch
import torch.nn.functional as F
from mmcv.transforms import BaseTransform, RandomFlip
from mmengine.registry import TRANSFORMS
from mmpretrain.datasets import RandAugment, RandomResizedCrop
from mmpretrain.datasets.transforms.auto_augment import Rotate, Shear, Translate
from torch import Tensor

from ..checkpoint import CheckpointError, read_checkpoint
from ..models.arch import is_positive_int

Results = Dict[str, Any]

SAMPLES = 4
"""Samples along either side of a token, whose average is its label."""


def places_of(
    left: float, top: float, right: float, bottom: float, size: Tuple[int, int]
) -> np.ndarray:
    """Places of the pixels of a crop.

    Args:
        left: edge of the crop as a fraction of the width of the original image, as is `right`.
        top: edge as a fraction of its height, as is `bottom`.
        right: see `left`.
        bottom: see `top`.
        size: (height, width) that the crop is resized to.

    Returns:
        (height, width, 3) float32: x, y and 1 of the centre of every pixel. What is moved in from
        beyond the crop later is all zeros, and blends like a colour.
    """
    height, width = size
    y = top + (bottom - top) * (np.arange(height) + 0.5) / height
    x = left + (right - left) * (np.arange(width) + 0.5) / width
    return np.stack([*np.meshgrid(x, y), np.ones(size)], -1).astype(np.float32)


@TRANSFORMS.register_module()
class TrackedResizedCrop(RandomResizedCrop):
    """mmpretrain's RandomResizedCrop, which remembers the places of the pixels."""

    def transform(self, results: Results) -> Results:
        """Crop and resize the image, and add ``places``."""
        image = results['img']
        top, left, height, width = self.rand_crop_params(image)
        crop = image[top : top + height, left : left + width]
        results['img'] = mmcv.imresize(
            crop, tuple(self.scale[::-1]), interpolation=self.interpolation, backend=self.backend
        )
        results['img_shape'] = results['img'].shape
        rows, columns = image.shape[:2]
        edges = left / columns, top / rows, (left + width) / columns, (top + height) / rows
        results['places'] = places_of(*edges, tuple(self.scale))
        return results


@TRANSFORMS.register_module()
class TrackedFlip(RandomFlip):
    """mmcv's RandomFlip, which flips the places too."""

    def _flip(self, results: Results) -> None:
        super()._flip(results)
        direction = results['flip_direction']
        results['places'] = mmcv.imflip(results['places'], direction=direction)


@TRANSFORMS.register_module()
class TrackedRandAugment(RandAugment):
    """mmpretrain's RandAugment, which rotates, shears and translates the places too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._followers = {
            index: _follower(operation)
            for index, operation in enumerate(self.transforms)
            if isinstance(operation, (Rotate, Shear, Translate))
        }

    def transform(self, results: Results) -> Results:
        """Carry out randomly chosen operations."""
        for index in self.random_policy_indices():
            state = np.random.get_state()
            results = self.transforms[index](results)
            if index in self._followers:
                np.random.set_state(state)  # the same draws, and those after them stay the same
                moved = self._followers[index](dict(img=results['places']))
                results['places'] = moved['img']
        return results


def _follower(operation: BaseTransform) -> BaseTransform:
    """The operation for places: what comes from beyond the image is of no place."""
    follower = copy.copy(operation)
    follower.pad_val, follower.interpolation = 0, 'bilinear'
    return follower


@TRANSFORMS.register_module()
class LoadTokenLabels(BaseTransform):
    """Read the dense labels of an image and cut them to its tokens.

    The file of ``…/CLASS/NAME.JPEG`` is ``label_root/CLASS/NAME`` with `suffix`. It holds one
    tensor (2, k, H, W): scores before the softmax, and the classes that they belong to; classes
    that are not listed at a cell have score 0. Scores are sampled bilinearly and averaged over
    each token as RoIAlign does it, where the image shows nothing they are 0, and the softmax over
    all classes makes them probabilities.

    Comes after the last of the ``Tracked…`` transforms, which leave ``places``. Adds
    ``token_label``, (classes, rows, columns) in float16 to spare the way between processes.

    Args:
        label_root: folder of the labels.
        num_classes: classes.
        grid: rows and columns of tokens, or one number for both.
        relabel: also replace the class of the image by the softmax of the tokens' average scores
            (``gt_score``), as the released code of RMT does; otherwise ``gt_label`` stays.
        suffix: ``.pt``, which ``torch.save`` writes, or ``.npy``.

    Raises:
        CheckpointError: a file is missing or does not hold such a tensor; in one line.
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        label_root: str,
        num_classes: int = 1000,
        grid: Union[int, Tuple[int, int]] = 7,
        relabel: bool = False,
        suffix: str = '.pt',
    ) -> None:
        if suffix not in ('.pt', '.npy'):
            raise ValueError(f"suffix must be '.pt' or '.npy', got {suffix!r}")
        if not is_positive_int(num_classes):
            raise ValueError(f'num_classes must be a positive integer, got {num_classes!r}')
        sides = tuple(grid) if isinstance(grid, (list, tuple)) else (grid, grid)
        if len(sides) != 2 or not all(map(is_positive_int, sides)):
            raise ValueError(f'grid must be one or two positive integers, got {grid!r}')
        self.label_root = label_root
        self.num_classes = num_classes
        self.grid = sides
        self.relabel = relabel
        self.suffix = suffix

    def transform(self, results: Results) -> Results:
        """Add ``token_label``, and ``gt_score`` if asked to."""
        if 'places' not in results:
            raise ValueError('LoadTokenLabels comes after TrackedResizedCrop, which is missing')
        folder, name = osp.split(results['img_path'])
        stem = osp.splitext(name)[0]
        path = osp.join(self.label_root, osp.basename(folder), stem + self.suffix)
        scores, classes = read_token_map(path, self.num_classes)
        listed, index = classes.unique(return_inverse=True)
        maps = scores.new_zeros(len(listed), *scores.shape[1:]).scatter_(0, index, scores)
        dense = scores.new_zeros(self.num_classes, *self.grid)
        dense[listed] = sample(maps, results['places'], self.grid)
        results['token_label'] = dense.softmax(0).half()
        if self.relabel:
            results['gt_score'] = dense.mean((1, 2)).softmax(0)
        return results


def sample(maps: Tensor, places: np.ndarray, grid: Tuple[int, int]) -> Tensor:
    """Averages of maps over the tokens of an image.

    Args:
        maps: (C, H, W) over the whole original image.
        places: of the pixels, see :func:`places_of`.
        grid: rows and columns of tokens.

    Returns:
        (C, rows, columns); 0 where the image has no place.
    """
    rows, columns = (count * SAMPLES for count in grid)
    points = cv2.resize(places, (columns, rows), interpolation=cv2.INTER_AREA)
    points = torch.from_numpy(points)
    covered = points[..., 2]
    # grid_sample counts from -1 to 1, from edge to edge.
    where = 2 * points[..., :2] / covered.clamp(min=1e-6)[..., None] - 1
    sampled = F.grid_sample(maps[None], where[None], padding_mode='border', align_corners=False)
    return F.avg_pool2d(sampled[0] * covered, SAMPLES)


def read_token_map(path: str, num_classes: int) -> Tuple[Tensor, Tensor]:
    """Read a file of dense labels, see :class:`LoadTokenLabels`.

    Returns:
        Scores, (k, H, W) float32, and classes, (k, H, W) int64.

    Raises:
        CheckpointError: the file is missing or holds something else; nothing in it is run.
    """
    if '://' not in path and not osp.isfile(path):
        raise CheckpointError(
            f'token labels {path} do not exist; give label_root of LoadTokenLabels a folder with '
            'one file for every training image'
        )
    content = _read_array(path) if path.endswith('.npy') else read_checkpoint(path)
    if not isinstance(content, Tensor):
        raise CheckpointError(
            f'token labels {path} hold a {type(content).__name__}, not one tensor (2, k, H, W)'
        )
    if content.ndim != 4 or len(content) != 2 or 0 in content.shape:
        raise CheckpointError(
            f'token labels {path} have shape {tuple(content.shape)}, not (2, k, H, W): scores and '
            'classes of the k best at every cell'
        )
    scores, classes = content.float()
    if not scores.isfinite().all():
        raise CheckpointError(
            f'token labels {path} hold scores that are not finite; make it again'
        )
    known = (classes >= 0) & (classes < num_classes) & (classes == classes.floor())
    if not known.all():
        raise CheckpointError(
            f'token labels {path} hold class {classes[~known][0].item():g}; classes are integers '
            f'from 0 to {num_classes - 1} (num_classes of LoadTokenLabels)'
        )
    return scores, classes.long()


def _read_array(path: str) -> Tensor:
    try:
        return torch.from_numpy(np.load(path, allow_pickle=False))
    except Exception as error:  # whatever numpy finds in place of an array
        raise CheckpointError(
            f'token labels {path} cannot be read as an array: {type(error).__name__}: {error}'
        ) from error
