"""Contact sheets and the images of a report."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmpretrain.structures import DataSample
from torch import nn

from mmrest.inference.sheets import draw_panel, draw_predictions
from tests.inference.test_hook import Data
from tests.inference.test_overlay import instances

COLOURS = [(255, 0, 0), (0, 0, 255)]


class Found(nn.Module):
    """Fake network with given predictions."""

    def __init__(self, sample):
        super().__init__()
        self.sample = sample

    def test_step(self, data):
        return [self.sample]


def data_of(*samples):
    return Data(samples, ('square', 'disc'), COLOURS)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / 'image.png'
    cv2.imwrite(str(path), np.full((40, 60, 3), 128, np.uint8))
    return dict(img_path=str(path), ori_shape=(40, 60), scale_factor=(0.5, 0.5))


def detections(**scores):
    return instances([[5, 5, 15, 15], [30, 20, 50, 35]], [0, 1], **scores)


def has(picture, colour):
    """Return True if a colour (RGB) occurs, within the error of JPEG and scaling."""
    return bool((np.abs(picture[..., ::-1].astype(int) - colour).max(-1) < 40).any())


@pytest.mark.parametrize('scores, drawn', [([0.9, 0.8], True), ([0.4, 0.3], False)])
def test_instances(image, tmp_path, scores, drawn):
    """Three columns; the detections above the threshold are in the last one."""
    truth = DetDataSample(metainfo=image, gt_instances=detections()[:0])
    sample = DetDataSample(metainfo=image, pred_instances=detections(scores=scores))
    data = data_of(*[dict(inputs=torch.zeros(3, 20, 30), data_samples=truth)] * 2)
    draw_predictions(Found(sample), data, tmp_path / 'x.png')
    picture = cv2.imread(str(tmp_path / 'x.png'))
    assert picture.shape[1] == 3 * 438 and picture.shape[0] > 2 * 286
    left, right = np.split(picture, [2 * 438], axis=1)
    for colour in COLOURS:
        assert has(right, colour) is drawn and not has(left, colour)


def test_classes(image, tmp_path):
    sample = DataSample(metainfo=image).set_gt_label(1).set_pred_label(1)
    sample.set_pred_score(torch.tensor([0, 1.0]))
    data = data_of(*[dict(inputs=torch.zeros(3, 20, 30), data_samples=sample)] * 7)
    draw_predictions(Found(sample), data, tmp_path / 'y.png')
    drawn = cv2.imread(str(tmp_path / 'y.png'))
    assert 4 * 286 < drawn.shape[0] < 5 * 286 and has(drawn[:, 2 * 438 :], (27, 127, 59))


def panel(image, content):
    jpeg, inside = draw_panel(Path(image['img_path']), content, data_of())
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), inside


def test_panel_of_a_label_map(image):
    """A label map over a grey image, partly ignored, and its description."""
    labels = np.zeros((40, 60), int)
    labels[:, 30:], labels[:10] = 1, 255
    picture, inside = panel(image, labels)
    assert picture.shape == (320, 480, 3) and inside == 'square 38%, disc 38%'
    expected = {(40, 120): (128, 128, 128), (300, 20): (58, 58, 198), (300, 460): (198, 58, 58)}
    for place, colour in expected.items():
        assert np.abs(picture[place].astype(int) - colour).max() < 12


def test_panel_of_instances(image):
    found = detections(scores=[0.9, 0.4])
    picture, inside = panel(image, found)
    assert inside == '1 square, 1 disc' and has(picture, (255, 0, 0))
    assert panel(image, found[:0])[1] == 'nothing'
