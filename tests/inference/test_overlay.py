"""Pictures of predictions: colours of classes, and labels that cover no other."""

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from mmrest.engine.display import colours
from mmrest.inference import overlay
from mmrest.inference.overlay import draw, free_place, overlap

PALETTE = [(255, 0, 0), (0, 0, 255)]
GREY = np.full((480, 640, 3), 128, np.uint8)


def detections(boxes, scores, labels, masks=None):
    sample = BaseDataElement()
    sample.pred_instances = InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor(scores), labels=torch.tensor(labels, dtype=torch.long),
    )  # fmt: skip
    if masks is not None:
        sample.pred_instances.masks = torch.from_numpy(masks)
    return sample


def label_map(labels):
    sample = BaseDataElement()
    sample.pred_sem_seg = PixelData(data=torch.from_numpy(labels)[None])
    return sample


def test_masks_and_boxes():
    """A pixel is tinted once, in the colour of the surest detection."""
    masks = np.zeros((3, 480, 640), bool)
    masks[0, 100:200, 100:300] = masks[1, 150:250, 200:400] = masks[2, 300:400, 100:300] = True
    boxes = [[100, 100, 300, 200], [200, 150, 400, 250], [100, 300, 300, 400]]
    before = GREY.copy()
    picture = draw(GREY, detections(boxes, [0.6, 0.9, 0.2], [0, 1, 0], masks), 'ab', PALETTE)
    assert (GREY == before).all() and picture.shape == GREY.shape
    red, blue = (np.array(c[::-1]) * 0.55 + 128 * 0.45 for c in PALETTE)  # pictures are BGR
    assert np.abs(picture[130, 150] - red).max() <= 1
    assert np.abs(picture[175, 250] - blue).max() <= 1  # of both
    assert (picture[350, 200] == 128).all()
    assert picture[100, 250].tolist() == [0, 0, 255] and picture[250, 300].tolist() == [255, 0, 0]
    assert (draw(GREY, detections([], [], []), 'ab', PALETTE) == GREY).all()


@pytest.mark.parametrize('size, factor', [((48, 64), 10), ((160, 192), 3), ((700, 900), 1)])
def test_small_images_are_enlarged(size, factor):
    mask = np.zeros((1, *size), bool)
    mask[0, 20:40, 20:40] = True
    image = np.full((*size, 3), 128, np.uint8)
    picture = draw(image, detections([[10, 10, 40, 40]], [0.9], [0], mask), 'ab', PALETTE)
    assert picture.shape == (size[0] * factor, size[1] * factor, 3)
    inside, outside = picture[30 * factor, 30 * factor], picture[45 * factor, 50 * factor]
    assert inside[2] > 190 and (outside == 128).all()


def test_label_maps():
    """Colours over the image in grey, and the name of every class in its largest region."""
    labels = np.zeros((480, 640), np.int64)
    labels[200:400, 300:600] = 1
    labels[50:60, 50:60] = 1
    image = GREY.copy()
    image[..., 0] = 200
    picture = draw(image, label_map(labels), ['wall', 'door'], PALETTE)
    level = 0.114 * 200 + 0.886 * 128
    for place, colour in (((450, 20), PALETTE[0]), ((220, 320), PALETTE[1])):
        assert np.abs(picture[place] - (np.array(colour[::-1]) * 0.55 + level * 0.45)).max() <= 2
    named = (picture == (255, 0, 0)).all(-1)  # the label alone is of the pure colour
    rows, columns = np.nonzero(named)
    assert 200 <= rows.min() and rows.max() < 400 and 300 <= columns.min() and columns.max() < 600


def test_hundreds_of_labels(monkeypatch):
    """All that are written lie in the picture, and none over another."""
    written = []
    places = overlay._places
    monkeypatch.setattr(
        overlay, '_places', lambda *args: written.extend(places(*args)) or list(written)
    )
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 400, (300, 2))
    boxes = np.hstack([corners, corners + rng.integers(5, 200, (300, 2))]).tolist()
    scores = np.linspace(0.01, 0.99, 300).tolist()
    draw(GREY, detections(boxes, scores, [0] * 300), ['a long name', 'b'], PALETTE, 0.0)
    assert 50 < len(written) < 300
    assert written[0][0].text == 'a long name 0.99'
    for index, (label, place) in enumerate(written):
        assert 0 <= place[0] and place[2] <= 640 and 0 <= place[1] and place[3] <= 480
        assert not any(overlap(place, other) for _, other in written[:index])
        top, bottom = label.box[1], label.box[3]
        assert abs(place[1] - top) <= max(bottom - top, 40) + 1


def test_places():
    picture = (0, 0, 100, 100)
    assert free_place((20, 40, 60, 80), (30, 10), picture, []) == (20, 30, 50, 40)  # above
    assert free_place((80, 0, 99, 9), (30, 10), picture, []) == (70, 0, 100, 10)  # kept inside
    everywhere = [(0, 0, 100, 100)]
    assert free_place((20, 40, 60, 80), (30, 10), picture, everywhere) is None
    near = [(0, 20, 100, 90)]
    assert free_place((20, 40, 60, 80), (30, 10), picture, near) is not None
    assert free_place((20, 40, 60, 80), (30, 10), picture, near, reach=20) is None


def test_colours():
    assert colours([[1, 2, 3], [4, 5, 6]], 1) == [(1, 2, 3)]
    made = colours(None, 20)
    assert len(set(made)) == 20 and made[1:] == colours([made[0]], 20)[1:]


def test_instances_of_a_class_that_overlap_have_shades():
    boxes = [[0, 0, 50, 50], [40, 40, 90, 90], [200, 200, 250, 250]]
    found = detections(boxes, [0.5, 0.9, 0.9], [0, 0, 0]).pred_instances
    picture = overlay.render(GREY, 'ab', PALETTE, found)
    edges = [tuple(picture[int(b[3]), int(b[0]) + 2][::-1]) for b in boxes]
    assert edges[0] == edges[2] == PALETTE[0] and edges[1] == (255, 42, 42)


def test_annotations_and_values_that_are_no_class():
    found = detections([[100, 100, 300, 200]], [0.5], [1]).pred_instances
    del found.scores
    labels = np.full((480, 640), 255)
    labels[300:] = 1
    picture = overlay.render(GREY, ['wall', 'door'], PALETTE, found, labels)
    assert (picture[250, 20] == 128).all() and picture[470, 10, 0] > 190
    assert tuple(picture[200, 200]) == (255, 0, 0)
