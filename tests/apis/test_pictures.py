"""Pictures: drawn for detectors and segmentors, from what a run leaves."""

from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import cv2
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from torch import nn

from mmrest.apis import pictures
from mmrest.apis.class_pictures import draw_classes
from mmrest.apis.pictures import draw_panel, draw_predictions, palette_of

COLOURS = [(255, 0, 0), (0, 0, 255)]


class Found(nn.Module):
    """Stands in for a network: its predictions are those it was given."""

    def __init__(self, sample):
        super().__init__()
        self.sample = sample

    def test_step(self, data):
        return [self.sample]


class Data(list):
    """Stands in for a data set."""

    metainfo: ClassVar = dict(classes=('square', 'disc'), palette=COLOURS)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / 'image.png'
    cv2.imwrite(str(path), np.full((40, 60, 3), 128, np.uint8))
    return dict(img_path=str(path), ori_shape=(40, 60), scale_factor=(0.5, 0.5))


def colours(path):
    picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    assert picture.shape[0] > 200
    return {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}


def legend(monkeypatch):
    """Collects the texts of legends of figures."""
    texts = []
    original = pictures.add_legend

    def kept(*args, **kwargs):
        legend = original(*args, **kwargs)
        texts.extend(text.get_text() for text in legend.get_texts())

    monkeypatch.setattr(pictures, 'add_legend', kept)
    return texts


@pytest.mark.parametrize('with_masks', [True, False])
@pytest.mark.parametrize('scores, drawn', [([0.9, 0.8], True), ([0.4, 0.3], False)])
def test_instances(image, tmp_path, monkeypatch, scores, drawn, with_masks):
    texts = legend(monkeypatch)
    masks = np.zeros((2, 40, 60), np.uint8)
    masks[0, 5:15, 5:15] = masks[1, 20:35, 30:50] = 1
    boxes = torch.tensor([[5.0, 5, 15, 15], [30, 20, 50, 35]])
    truth = DetDataSample(metainfo=image)
    truth.gt_instances = InstanceData(
        bboxes=boxes[:0], labels=torch.zeros(0, dtype=torch.long), masks=BitmapMasks([], 20, 30)
    )
    sample = DetDataSample(metainfo=image)
    sample.pred_instances = InstanceData(
        bboxes=boxes,
        labels=torch.tensor([0, 1]),
        masks=torch.from_numpy(masks).bool(),
        scores=torch.tensor(scores),
    )
    if not with_masks:
        del truth.gt_instances.masks, sample.pred_instances.masks
    data = Data([dict(inputs=torch.zeros(3, 20, 30), data_samples=truth)])
    draw_predictions(Found(sample), data, tmp_path / 'x.png', [0])
    assert texts == (['square', 'disc'] if drawn else [])
    assert ({(255, 0, 0), (0, 0, 255)} <= colours(tmp_path / 'x.png')) is drawn


def test_names_are_shown_as_they_are(image, tmp_path, monkeypatch):
    """Neither left out nor taken for mathematics, which could be wrong."""
    names = ('_square', r'$\disc{$')
    monkeypatch.setattr(Data, 'metainfo', dict(classes=names, palette=COLOURS))
    texts = legend(monkeypatch)
    found = InstanceData(
        bboxes=torch.tensor([[5.0, 5, 15, 15], [30, 20, 50, 35]]),
        labels=torch.tensor([0, 1]),
        scores=torch.ones(2),
    )
    sample = DetDataSample(metainfo=image, pred_instances=found)
    truth = DetDataSample(metainfo=image, gt_instances=found)
    data = Data([dict(inputs=torch.zeros(3, 20, 30), data_samples=truth)])
    draw_predictions(Found(sample), data, tmp_path / 'x.png', [0])
    assert texts == list(names)
    label = SimpleNamespace(item=lambda: 1)
    sample = SimpleNamespace(
        img_path=image['img_path'], pred_label=label, gt_label=label, pred_score=[0, 1.0]
    )
    sample.cpu = lambda: sample
    draw_classes(Found(sample), data, tmp_path / 'y.png', [0])
    assert (tmp_path / 'y.png').is_file()


def test_label_maps(image, tmp_path):
    labels = torch.zeros(1, 40, 60, dtype=torch.long)
    labels[:, 10:20, 10:20] = 1
    sample = SegDataSample(metainfo=image)
    sample.gt_sem_seg = sample.pred_sem_seg = PixelData(data=labels)
    data = Data([dict(inputs=torch.zeros(3, 40, 60), data_samples=sample)])
    draw_predictions(Found(sample), data, tmp_path / 'x.png', [0])
    mixed = {tuple(round(0.3 * 128 + 0.7 * c) for c in colour) for colour in COLOURS}
    near = colours(tmp_path / 'x.png')
    for colour in mixed:
        assert any(max(abs(a - b) for a, b in zip(colour, other)) <= 3 for other in near)


@pytest.mark.parametrize('box', [(5, 5, 15, 15), (0, 0, 60, 40), (52, 30, 60, 40)])
def test_labels_cover_no_other(box):
    """Five detections of one object, wherever it lies in the image."""
    figure, axis = plt.subplots(figsize=(6, 4))
    axis.imshow(np.zeros((40, 60, 3), np.uint8))
    pictures._write_labels(
        axis, [pictures.Label(f'square 0.{n}', box, (1, 0, 0)) for n in range(5)]
    )
    figure.draw_without_rendering()
    image = axis.get_window_extent()
    extents = [text.get_bbox_patch().get_window_extent() for text in axis.texts]
    assert len(extents) == 5
    for index, extent in enumerate(extents):
        assert image.x0 - 1 <= extent.x0 and extent.x1 <= image.x1 + 1
        assert image.y0 - 1 <= extent.y0 and extent.y1 <= image.y1 + 1
        assert not any(extent.overlaps(other) for other in extents[:index])
    plt.close(figure)


def test_panel(image):
    """A label map over a grey image, a share of it to be ignored, with words for it."""
    labels = np.zeros((40, 60), int)
    labels[:, 30:], labels[:10] = 1, 255
    metainfo = dict(classes=('square', 'disc'), palette=COLOURS)
    jpeg, inside = draw_panel(Path(image['img_path']), labels, metainfo, width=120)
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (80, 120, 3) and inside == 'square 38%, disc 38%'
    expected = {(10, 30): (128, 128, 128), (60, 20): (38, 38, 217), (60, 100): (217, 38, 38)}
    for place, colour in expected.items():
        assert np.abs(picture[place].astype(int) - colour).max() < 8


def test_panel_of_instances(image):
    found = InstanceData(
        bboxes=torch.tensor([[5.0, 5, 15, 15], [30, 20, 50, 35]]),
        labels=torch.tensor([1, 1]),
        scores=torch.tensor([0.9, 0.4]),
    )
    metainfo = dict(classes=('square', 'disc'), palette=COLOURS)
    jpeg, inside = draw_panel(Path(image['img_path']), found, metainfo)
    assert inside == '2 disc'
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (320, 480, 3)
    assert (picture.max(-1) - picture.min(-1) > 100).any()
    assert draw_panel(Path(image['img_path']), found[:0], metainfo)[1] == 'nothing'


def test_palette_of_data_that_has_none():
    colours = palette_of(dict(classes=('a', 'b', 'c'), palette=[(1, 2, 3)]))
    assert len(set(colours)) == 3
