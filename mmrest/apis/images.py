"""Images from files, as networks and pictures take them."""

from typing import Optional, Tuple

import cv2
import numpy as np
import torch
from torch import Tensor

from ..engine.errors import UsageError
from .networks import Preprocessing


def read_image(path: str, size: Optional[Tuple[int, int]] = None) -> np.ndarray:
    """Read an image file.

    Args:
        path: the file.
        size: height and width to resize it to, pixels; None keeps its own.

    Returns:
        (H, W, 3), RGB, of 8 bits.

    Raises:
        UsageError: it is not there, or no image.
    """
    image = cv2.imread(path, cv2.IMREAD_COLOR)
    if image is None:
        raise UsageError(f'image {path} does not exist or cannot be read; give an image file')
    if size is not None:
        image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def normalised(image: np.ndarray, preprocessing: Preprocessing) -> Tensor:
    """What a network is given of an image.

    Args:
        image: (H, W, 3), RGB, of 8 bits.
        preprocessing: what it expects.

    Returns:
        (1, 3, H, W), float32.
    """
    channels = image if preprocessing.order == 'RGB' else image[..., ::-1]
    mean, std = np.float32(preprocessing.mean), np.float32(preprocessing.std)
    return torch.from_numpy((channels - mean) / std).permute(2, 0, 1)[None].contiguous()
