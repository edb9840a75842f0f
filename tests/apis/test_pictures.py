"""Pictures: drawn for detectors and segmentors, from what a run leaves."""

import json
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
from mmrest.apis.pictures import draw_curves, draw_predictions, evaluated_after

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
    original = plt.Figure.legend

    def kept(self, handles, labels, **kwargs):
        texts.extend(labels)
        return original(self, handles, labels, **kwargs)

    monkeypatch.setattr(plt.Figure, 'legend', kept)
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


@pytest.mark.parametrize('perfect, label', [(1, 'held-out images'), (100, 'held-out images (%)')])
def test_unit_of_the_curves(tmp_path, monkeypatch, perfect, label):
    lines = [{'loss': 2.0, 'step': 10}, {'mIoU': 0.9 * perfect, 'step': 1}]
    (tmp_path / 'scalars.json').write_text('\n'.join(map(json.dumps, lines)))
    kept = []
    monkeypatch.setattr(plt, 'close', kept.append)
    draw_curves(tmp_path / 'scalars.json', tmp_path / 'x.png', {'mIoU': 'mIoU'}, perfect)
    right = kept[0].axes[1]
    assert right.get_ylabel().endswith(label) and right.get_xlabel() == 'iteration'
    assert right.get_ylim() == (0, perfect)


def test_curves(tmp_path):
    lines = [
        {'loss': 2.0, 'loss_cls': 1.0, 'step': 10},
        {'loss': 1.0, 'loss_cls': 0.5, 'step': 20},
        {'AP': 0.3, 'step': 1},
        {'loss': 0.5, 'loss_cls': 0.2, 'step': 30},
        {'AP': 0.6, 'step': 2},
    ]
    scalars = tmp_path / 'scalars.json'
    scalars.write_text('\n'.join(map(json.dumps, lines)))
    assert evaluated_after(lines, {'AP': 'box AP'}) == [(20, lines[2]), (30, lines[4])]
    draw_curves(scalars, tmp_path / 'x.png', {'AP': 'box AP'})
    assert len(colours(tmp_path / 'x.png')) > 10
