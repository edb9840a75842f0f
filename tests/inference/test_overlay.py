"""Visualizations: colours of classes and instances, labels that do not overlap, titles."""

import numpy as np
import pytest
import torch
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from mmrest.inference import overlay
from mmrest.inference.overlay import draw, draw_annotations, drawable, overlap, render, titled

PALETTE = [(255, 0, 0), (0, 0, 255)]
GREY = np.full((480, 640, 3), 128, np.uint8)


def instances(boxes, labels, **fields):
    return InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels, dtype=torch.long),
        **{key: torch.as_tensor(value) for key, value in fields.items()},
    )


def detections(boxes, scores, labels, **masks):
    return BaseDataElement(pred_instances=instances(boxes, labels, scores=scores, **masks))


def label_map(labels):
    return PixelData(data=torch.from_numpy(labels)[None])


def test_masks_and_boxes():
    """A pixel is tinted once, in the colour of the detection with the highest score."""
    masks = np.zeros((3, 480, 640), bool)
    masks[0, 100:200, 100:300] = masks[1, 150:250, 200:400] = masks[2, 300:400, 100:300] = True
    boxes = [[100, 100, 300, 200], [200, 150, 400, 250], [100, 300, 300, 400]]
    before = GREY.copy()
    drawn = draw(GREY, detections(boxes, [0.6, 0.9, 0.2], [0, 1, 0], masks=masks), 'ab', PALETTE)
    assert (GREY == before).all() and drawn.shape == GREY.shape
    red, blue = (np.array(c[::-1]) * 0.55 + 128 * 0.45 for c in PALETTE)  # images are BGR
    assert np.abs(drawn[130, 150] - red).max() <= 1
    assert np.abs(drawn[175, 250] - blue).max() <= 1  # of both
    assert (drawn[350, 200] == 128).all()
    assert drawn[100, 250].tolist() == [0, 0, 255] and drawn[250, 300].tolist() == [255, 0, 0]
    assert (draw(GREY, detections([], [], []), 'ab', PALETTE) == GREY).all()


@pytest.mark.parametrize('size, factor', [((48, 64), 10), ((160, 192), 3), ((700, 900), 1)])
def test_small_images_are_enlarged(size, factor):
    mask = np.zeros((1, *size), bool)
    mask[0, 20:40, 20:40] = True
    image = np.full((*size, 3), 128, np.uint8)
    drawn = draw(image, detections([[10, 10, 40, 40]], [0.9], [0], masks=mask), 'ab', PALETTE)
    assert drawn.shape == (size[0] * factor, size[1] * factor, 3)
    inside, outside = drawn[30 * factor, 30 * factor], drawn[45 * factor, 50 * factor]
    assert inside[2] > 190 and (outside == 128).all()


def test_images_of_any_type():
    values = np.array([[[0.0, 0.5, 1.0]]])
    for image in (values, 1000 * values, values.astype(np.float32) - 0.5):
        np.testing.assert_allclose(drawable(image), [[[0, 127, 255]]], atol=1)
    assert (drawable(np.ones((2, 2, 3))) == 255).all()


def test_label_maps():
    """Colours are over the image in grey, with class names in their largest regions."""
    labels = np.zeros((480, 640), np.int64)
    labels[200:400, 300:600] = 1
    labels[50:60, 50:60] = 1
    image = GREY.copy()
    image[..., 0] = 200
    drawn = draw(image, BaseDataElement(pred_sem_seg=label_map(labels)), ['wall', 'door'], PALETTE)
    level = 0.114 * 200 + 0.886 * 128
    for place, colour in (((450, 20), PALETTE[0]), ((220, 320), PALETTE[1])):
        assert np.abs(drawn[place] - (np.array(colour[::-1]) * 0.55 + level * 0.45)).max() <= 2
    named = (drawn == (255, 0, 0)).all(-1)  # only labels have the pure colour
    rows, columns = np.nonzero(named)
    assert 200 <= rows.min() and rows.max() < 400 and 300 <= columns.min() and columns.max() < 600


def places(boxes):
    """Return labels that have a place in an image of 640 x 480 pixels, with their places."""
    labels = [overlay._Label('a long name', box, PALETTE[0], reach=40) for box in boxes]
    return list(overlay.places(labels, overlay.font_of(13), (640, 480)))


def test_hundreds_of_labels():
    """They are above the box if there is room, inside the image, and do not overlap."""
    (_, first), (_, second) = places([[100, 100, 200, 200], [630, 0, 640, 90]])
    assert first[0] == 100 and first[3] == 100
    assert second[1] == 0 and second[2] == 640
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 400, (300, 2))
    boxes = np.hstack([corners, corners + rng.integers(5, 40, (300, 2))]).tolist()
    written = places(boxes)
    assert 50 < len(written) < 300 and written[0][0].box == boxes[0]
    for index, (label, place) in enumerate(written):
        assert 0 <= place[0] and place[2] <= 640 and 0 <= place[1] and place[3] <= 480
        assert not any(overlap(place, other) for _, other in written[:index])
        assert abs(place[1] - label.box[1]) <= 40


def test_the_label_of_the_highest_score_is_next_to_the_box():
    drawn = draw(GREY, detections([[99, 99, 300, 300]] * 2, [0.5, 0.9], [0, 1]), 'ab', PALETTE)
    above = drawn[88:98, 100:130]
    assert (above == (255, 0, 0)).all(-1).mean() > 0.4 and not (above == (0, 0, 255)).all(-1).any()


def test_instances_of_a_class_that_overlap_have_shades():
    boxes = [[0, 0, 50, 50], [40, 40, 90, 90], [200, 200, 250, 250]]
    drawn = render(GREY, 'ab', PALETTE, instances(boxes, [0, 0, 0], scores=[0.5, 0.9, 0.9]))
    edges = [tuple(drawn[int(b[3]), int(b[0]) + 2][::-1]) for b in boxes]
    assert edges[0] == edges[2] == PALETTE[0] and edges[1] == (255, 42, 42)


def test_annotations():
    """Packed by pipelines of mmdet and mmseg; values that are not a class are not drawn."""
    truth = instances([[100, 100, 300, 200]], [1])
    truth.bboxes = HorizontalBoxes(truth.bboxes)
    masks = np.zeros((1, 480, 640), np.uint8)
    masks[0, 110:190, 110:190] = 1
    truth.masks = BitmapMasks(masks, 480, 640)
    labels = np.full((480, 640), 255)
    labels[300:] = 1
    annotated = BaseDataElement(gt_instances=truth, gt_sem_seg=label_map(labels))
    drawn = draw_annotations(GREY, annotated, ['wall', 'door'], PALETTE)
    assert (drawn[250, 20] == 128).all() and drawn[470, 10, 0] > 190
    assert tuple(drawn[200, 200]) == (255, 0, 0) and drawn[150, 150, 0] > 190
    assert isinstance(truth.masks, BitmapMasks)  # the sample is unchanged
    stuff = PixelData(sem_seg=torch.ones(1, 480, 640))  # of mmdet
    drawn = draw_annotations(GREY, BaseDataElement(gt_sem_seg=stuff), ['wall', 'door'], PALETTE)
    assert np.array_equal(drawn, GREY)


def test_classes():
    """A line above the image, green, or red with the true class; text is never cut off."""
    tiny = np.full((32, 16, 3), 128, np.uint8)
    scores = torch.tensor([0.125, 0.875])
    found = BaseDataElement(pred_label=torch.tensor([1]), pred_score=scores)
    for truth, colour in (None, (0, 0, 0)), (1, overlay.RIGHT), (0, overlay.WRONG):
        if truth is not None:
            found.gt_label = torch.tensor([truth])
        drawn = draw(tiny, found, ['a cat', r'_$\dog{'], PALETTE)
        assert (drawn[-640:, :320] == 128).all() and drawn.shape[0] > 650
        assert (drawn[:-640, :320] == colour[::-1]).all(-1).any()
    assert draw_annotations(tiny, found, ['cat', 'dog'], PALETTE).shape[1] == 320
    wide = titled(tiny, 'a name that is wider than the image')
    assert (
        wide.shape[1] > 150 and (wide[-32:, :16] == 128).all() and (wide[-32:, 16:] == 255).all()
    )
