"""Images from files: whole ones alone, and nothing said but by us."""

import cv2
import numpy as np
import pytest

from mmrest.engine.errors import UsageError
from mmrest.inference.images import UnreadableImage, read_image


@pytest.fixture
def picture(tmp_path):
    """A file with an image, of which half is blue."""
    image = np.zeros((60, 80, 3), np.uint8)
    image[:, 40:, 0] = 255
    cv2.imwrite(str(tmp_path / 'x.jpg'), image)
    return tmp_path / 'x.jpg'


def test_whole(picture):
    """RGB, of its own size or another one."""
    image = read_image(str(picture))
    assert image.shape == (60, 80, 3) and image.dtype == np.uint8
    assert abs(image[30, 70].astype(int) - (0, 0, 255)).max() < 10
    assert read_image(str(picture), (32, 48)).shape == (32, 48, 3)


def test_absent(tmp_path, capfd):
    """OpenCV has no line of its own."""
    with pytest.raises(UsageError, match=r'image .*absent\.jpg does not exist; give'):
        read_image(str(tmp_path / 'absent.jpg'))
    assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize('spoil, reason', [
    (lambda data: data[:-60], 'x.jpg cannot be read: OSError: image file is trunc'),
    (lambda data: b'hello', 'x.jpg is not an image'),
])  # fmt: skip
def test_unreadable(picture, capfd, spoil, reason):
    """What is missing is not filled with grey."""
    picture.write_bytes(spoil(picture.read_bytes()))
    with pytest.raises(UnreadableImage, match=reason):
        read_image(str(picture))
    assert capfd.readouterr() == ('', '')
