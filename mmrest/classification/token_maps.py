"""Dense labels that follow the augmentation of their image.

A file has a teacher's top k classes for every cell of a grid over the whole image, in the format
of the Token Labeling project (https://github.com/zihangJiang/TokenLabeling). The transforms track
each pixel's coordinates in the original image, so that the labels of the tokens can be sampled
after crop, flip and RandAugment.
"""

import copy
import os.path as osp
from numbers import Integral
from pathlib import Path
from typing import Tuple, Union

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
from ..errors import first_line
from ..models.arch import check, is_number

SAMPLES = 4
"""Samples per axis and token, which are averaged to give its label."""


def crop_coords(
    left: float, top: float, right: float, bottom: float, size: Tuple[int, int]
) -> np.ndarray:
    """Return the coordinates of the pixels of a crop.

    Args:
        left, top, right, bottom: edges of the crop, as fractions of the width and height of the
            original image.
        size: (height, width) that the crop is resized to.

    Returns:
        (height, width, 3) float32: x, y and 1 for the centre of every pixel. Pixels that
        augmentation moves in from outside the crop become zeros; of blended ones, the third
        value is the share that lies inside.
    """
    height, width = size
    y = top + (bottom - top) * (np.arange(height) + 0.5) / height
    x = left + (right - left) * (np.arange(width) + 0.5) / width
    return np.stack([*np.meshgrid(x, y), np.ones(size)], -1).astype(np.float32)


@TRANSFORMS.register_module()
class TrackedResizedCrop(RandomResizedCrop):
    """mmpretrain's RandomResizedCrop that adds the coordinates of the pixels, ``coords``."""

    def rand_crop_params(self, img: np.ndarray) -> Tuple[int, int, int, int]:
        self._crop = super().rand_crop_params(img)
        return self._crop

    def transform(self, results: dict) -> dict:
        rows, columns = results['img'].shape[:2]
        results = super().transform(results)
        top, left, height, width = self._crop
        edges = left / columns, top / rows, (left + width) / columns, (top + height) / rows
        results['coords'] = crop_coords(*edges, tuple(self.scale))
        return results


@TRANSFORMS.register_module()
class TrackedFlip(RandomFlip):
    """mmcv's RandomFlip that flips the coordinates too."""

    def _flip(self, results: dict) -> None:
        super()._flip(results)
        results['coords'] = mmcv.imflip(results['coords'], results['flip_direction'])


@TRANSFORMS.register_module()
class TrackedRandAugment(RandAugment):
    """mmpretrain's RandAugment that rotates, shears and translates the coordinates too."""

    def transform(self, results: dict) -> dict:
        for index in self.random_policy_indices():
            operation = self.transforms[index]
            state = np.random.get_state()
            results = operation(results)
            if isinstance(operation, (Rotate, Shear, Translate)):
                np.random.set_state(state)  # repeats the random numbers of the image
                follower = copy.copy(operation)
                follower.pad_val, follower.interpolation = 0, 'bilinear'
                results['coords'] = follower(dict(img=results['coords']))['img']
        return results


@TRANSFORMS.register_module()
class LoadTokenLabels(BaseTransform):
    """Load the dense labels of an image and sample them at its tokens.

    The labels of ``…/CLASS/NAME.JPEG`` are in ``label_root/CLASS/NAME`` with `suffix`. The file
    contains one tensor (2, k, H, W): scores before the softmax, and their classes. Classes not
    listed in a cell have score 0. As in RoIAlign, scores are sampled bilinearly and averaged over
    each token, with 0 beyond the crop. A softmax over all classes gives probabilities.

    Place this transform after the last ``Tracked…`` transform; these provide ``coords``. It adds
    ``token_label``, (classes, rows, columns), in float16 for cheaper transfer between processes.

    Args:
        label_root: label folder.
        num_classes: number of classes.
        grid: rows and columns of tokens, or one number for both.
        relabel: also set ``gt_score`` to the softmax of the mean token scores, as RMT's official
            code does; otherwise, ``gt_label`` is used.
        suffix: ``.pt``, saved with ``torch.save``, or ``.npy``.

    Raises:
        CheckpointError: a file is missing or does not contain such a tensor.
        ValueError: an argument is invalid.
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
        check('num_classes', num_classes, int)
        sides = tuple(grid) if isinstance(grid, (list, tuple)) else (grid, grid)
        if len(sides) != 2 or not all(is_number(s, Integral) and s > 0 for s in sides):
            raise ValueError(f'grid must be one or two positive integers, got {grid!r}')
        self.label_root, self.suffix = label_root, suffix
        self.num_classes, self.grid, self.relabel = num_classes, sides, relabel

    def transform(self, results: dict) -> dict:
        if 'coords' not in results:
            raise ValueError('LoadTokenLabels needs TrackedResizedCrop before it in the pipeline')
        image = Path(results['img_path'])
        path = osp.join(self.label_root, image.parent.name, image.stem + self.suffix)
        scores, classes = read_token_map(path, self.num_classes)
        listed, index = classes.unique(return_inverse=True)
        maps = scores.new_zeros(len(listed), *scores.shape[1:]).scatter_(0, index, scores)
        dense = scores.new_zeros(self.num_classes, *self.grid)
        dense[listed] = sample(maps, results['coords'], self.grid)
        results['token_label'] = dense.softmax(0).half()
        if self.relabel:
            results['gt_score'] = dense.mean((1, 2)).softmax(0)
        return results


def sample(maps: Tensor, coords: np.ndarray, grid: Tuple[int, int]) -> Tensor:
    """Return the averages of maps over the tokens of an image.

    Args:
        maps: (C, H, W) over the whole original image.
        coords: coordinates of the pixels, see :func:`crop_coords`.
        grid: rows and columns of tokens.

    Returns:
        (C, rows, columns); 0 for pixels from outside the crop.
    """
    rows, columns = (count * SAMPLES for count in grid)
    points = torch.from_numpy(cv2.resize(coords, (columns, rows), interpolation=cv2.INTER_AREA))
    covered = points[..., 2]
    # grid_sample takes coordinates from -1 to 1, from edge to edge.
    where = 2 * points[..., :2] / covered.clamp(min=1e-6)[..., None] - 1
    sampled = F.grid_sample(maps[None], where[None], padding_mode='border', align_corners=False)
    return F.avg_pool2d(sampled[0] * covered, SAMPLES)


def read_token_map(path: str, num_classes: int) -> Tuple[Tensor, Tensor]:
    """Load a file of dense labels, see :class:`LoadTokenLabels`.

    Returns:
        Scores, (k, H, W) float32, and classes, (k, H, W) int64.

    Raises:
        CheckpointError: the file is missing or not valid; no code in it is executed.
    """
    if '://' not in path and not osp.isfile(path):
        raise CheckpointError(
            f'token labels {path} not found; set label_root of LoadTokenLabels to a folder with '
            'one file per training image'
        )
    if path.endswith('.npy'):
        try:
            content = torch.from_numpy(np.load(path, allow_pickle=False))
        except Exception as error:  # numpy raises many types for a damaged file
            raise CheckpointError(
                f'token labels {path} cannot be read as an array: {first_line(error)}'
            ) from error
    else:
        content = read_checkpoint(path)
    shape = tuple(content.shape) if isinstance(content, Tensor) else ()
    if len(shape) != 4 or shape[0] != 2 or 0 in shape:
        raise CheckpointError(
            f'token labels {path} are a {type(content).__name__} of shape {shape}, not a tensor '
            '(2, k, H, W): scores and classes of the k best at every cell'
        )
    scores, classes = content.float()
    known = (classes >= 0) & (classes < num_classes) & (classes == classes.floor())
    wrong = torch.cat([scores[~scores.isfinite()], classes[~known]])
    if len(wrong):
        raise CheckpointError(
            f'token labels {path} contain {wrong[0]:g}; expected finite scores, and classes from '
            f'0 to {num_classes - 1} (num_classes of LoadTokenLabels)'
        )
    return scores, classes.long()
