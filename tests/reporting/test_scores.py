"""Scores of classes and images, against manual counts and mmdet."""

import math

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData
from mmseg.evaluation import IoUMetric
from mmseg.structures import SegDataSample

from mmrest.reporting.scores import InstanceScores, LabelMapScores

BOXES = torch.tensor([[0.0, 0, 10, 10], [20, 0, 40, 20], [0, 20, 10, 40]])
CLASSES = ('a', 'b', 'c')


def annotations(boxes, labels, masks=False):
    found = []
    for (x0, y0, x1, y1), label in zip(boxes.tolist(), labels):
        outline = dict(mask=[[x0, y0, x1, y0, x1, y1, x0, y1]] if masks else None)
        found.append(dict(outline, bbox=[x0, y0, x1, y1], bbox_label=label, ignore_flag=0))
    return found


def detection(path, boxes, labels, scores, masks=False):
    sample = DetDataSample(metainfo=dict(img_path=path, ori_shape=(50, 50), img_id=0))
    sample.pred_instances = InstanceData(
        bboxes=boxes, labels=torch.tensor(labels).float(), scores=torch.tensor(scores)
    )
    if masks:
        drawn = torch.zeros(len(boxes), 50, 50, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(drawn, boxes.int().tolist()):
            mask[y0:y1, x0:x1] = True
        sample.pred_instances.masks = drawn
    return sample


@pytest.mark.parametrize('masks, predicted', [(False, False), (True, True), (False, True)])
def test_instances(masks, predicted):
    """Masks are compared where the annotations have some."""
    truth = {
        'whole': annotations(BOXES[:2], [0, 1], masks),
        'http://half': annotations(BOXES[:2], [0, 1], masks),
        'wrong': annotations(BOXES[:1], [0], masks),
        'empty': [],
        'crowd': [dict(annotations(BOXES[:1], [0], masks)[0], ignore_flag=1)],
        'region': [dict(annotations(BOXES[:1], [-1], masks)[0], ignore_flag=1)],  # of CrowdHuman
    }
    scores = InstanceScores(CLASSES, truth, 0.3)
    for path, labels, confidence in (
        ('whole', [0, 1], [0.9, 0.8]),
        ('http://half', [0, 1], [0.9, 0.2]),  # one of two is found; below 0.3 nothing counts
        ('wrong', [1], [0.9]),
        ('empty', [], []),
        ('crowd', [0], [0.9]),
        ('region', [0], [0.9]),
    ):
        scores.add(detection(path, BOXES[: len(labels)], labels, confidence, predicted))
    assert scores.per_image() == [1.0, pytest.approx(2 / 3), 0.0, None, None, None]
    table = scores.table()
    names = ['objects', 'box AP', 'box AP50', 'mask AP', 'mask AP50']
    assert list(table) == names[: 5 if masks else 3]
    assert table.pop('objects').tolist() == [3, 2, 0]
    for average in table.values():
        # Of three objects of a two are found; of b both, after a wrong one that was surer.
        assert average.tolist() == pytest.approx([67 / 101, 2 / 3, math.nan], nan_ok=True)
    path, annotated, found = scores.shown(1)
    assert path == 'http://half' and len(annotated) == 2 and len(found) == 1
    assert torch.equal(found.bboxes, BOXES[:1])
    assert ('masks' in found) == predicted and ('masks' in annotated) == masks
    if masks:
        assert found.masks.sum() == 100 == annotated.masks[0].sum()


@pytest.mark.parametrize('boxes, f1', [([], 0), ([[0.0, 0, 10, 5]], 0.1)])
def test_f1_over_thresholds(boxes, f1):
    """Nothing, or half of an object is found: a match only at an IoU of 0.5."""
    scores = InstanceScores(CLASSES, dict(x=annotations(BOXES[:1], [0])), 0.3)
    number = len(boxes)
    scores.add(detection('x', torch.tensor(boxes).reshape(-1, 4), [0] * number, [0.9] * number))
    assert scores.per_image() == [pytest.approx(f1)]
    assert [column[0] for column in scores.table().values()] == pytest.approx([1, f1, number])


def test_label_maps():
    truth = torch.zeros(1, 4, 4, dtype=torch.long)
    truth[:, :2] = 1
    truth[:, 3] = 255
    found = torch.zeros(1, 4, 4, dtype=torch.long)
    found[:, :1] = 1
    scores, metric = LabelMapScores(CLASSES, 255), IoUMetric(iou_metrics=['mIoU'])
    metric.dataset_meta = dict(classes=CLASSES)
    for prediction, there in ((found, truth), (truth % 255, truth), (found, truth * 0 + 255)):
        sample = SegDataSample(metainfo=dict(img_path='x', ori_shape=(4, 4)))
        sample.gt_sem_seg = PixelData(data=there)
        sample.pred_sem_seg = PixelData(data=prediction)
        scores.add(sample)
        metric.process({}, [sample.to_dict()])
    # Of 8 pixels of class 1 half are found, and 4 of class 0 are 8: IoU 1/2 and 1/2.
    assert scores.per_image() == [pytest.approx(0.5), 1.0, None]
    pixels, iou, _ = scores.table().values()
    assert np.nanmean(iou) == pytest.approx(
        metric.compute_metrics(metric.results)['mIoU'], abs=0.01
    )
    assert pixels.tolist() == pytest.approx([100 / 3, 200 / 3, 0]) and math.isnan(iou[2])
    _, *shown = scores.shown(0)
    assert np.array_equal(shown, torch.stack([truth[0], found[0]]))
