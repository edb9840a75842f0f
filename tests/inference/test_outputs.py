"""What inference leaves, where it cannot be written."""

import numpy as np
import pytest

from mmrest.engine.errors import UsageError
from mmrest.inference.outputs import VideoPictures


def test_video_that_cannot_be_written(tmp_path):
    (tmp_path / 'x.mp4').mkdir()
    with pytest.raises(UsageError, match=r'x.mp4 cannot be written by OpenCV, with 80 x 60 pix'):
        with VideoPictures(tmp_path / 'x.mp4', 25) as pictures:
            pictures.add(np.zeros((60, 80, 3), np.uint8))
