"""Images from files, as networks and pictures take them."""

import os.path as osp
import warnings
from typing import Optional, Tuple

import cv2
import numpy as np

from ..engine.config import first_line
from ..engine.errors import UsageError


class UnreadableImage(UsageError):
    """A file is no image, or only a part of one."""


def read_image(path: str, size: Optional[Tuple[int, int]] = None) -> np.ndarray:
    """Read an image file.

    Args:
        path: the file.
        size: height and width to resize it to, pixels; None keeps its own.

    Returns:
        (H, W, 3), RGB, of 8 bits.

    Raises:
        UsageError: it is not there.
        UnreadableImage: it is no image, or only a part of one.
    """
    if not osp.exists(path):  # OpenCV would say so in a line of its own
        raise UsageError(f'image {path} does not exist; give an image file')
    check_whole(path)
    image = cv2.imread(path, cv2.IMREAD_COLOR)
    if image is None:
        raise UnreadableImage(f'{path} is not an image that OpenCV can read')
    if size is not None:
        image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def check_whole(path: str) -> None:
    """Make sure that a file is an image up to its end; OpenCV fills what is missing with grey.

    Raises:
        UnreadableImage: it is not.
    """
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of many pixels
        try:
            with Pillow.open(path) as image:
                image.draft(image.mode, (1, 1))  # JPEG: reads all of the file, in less time
                image.load()
        except UnidentifiedImageError:
            raise UnreadableImage(f'{path} is not an image') from None
        except Pillow.DecompressionBombError:
            pass  # more pixels than Pillow wants to load
        except Exception as error:  # whatever a decoder raises
            raise UnreadableImage(f'{path} cannot be read: {first_line(error)}') from error
