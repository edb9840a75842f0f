"""The hook that draws predictions."""

import numpy as np
import torch
from mmpretrain.structures import DataSample
from mmpretrain.visualization import UniversalVisualizer

from mmrest.classification.pictures import ClassPicturesHook


def test_the_first_of_several_views_is_drawn(monkeypatch):
    visualizer = UniversalVisualizer.get_instance('views')
    drawn = []
    monkeypatch.setattr(visualizer, 'visualize_cls', lambda image, **_: drawn.append(image))
    hook = ClassPicturesHook(enable=True, interval=1)
    views = [tuple(torch.full((3, 4, 5), 10.0 * view + n) for n in range(2)) for view in range(3)]
    views[0][1][0] = 99  # blue
    samples = [DataSample(), DataSample()]
    hook._draw_samples(0, dict(inputs=views), samples)
    hook._draw_samples(0, dict(inputs=list(views[0])), samples)
    assert len(drawn) == 4
    for image, other in zip(drawn[:2], drawn[2:]):
        np.testing.assert_array_equal(image, other)
    np.testing.assert_array_equal(drawn[1][0, 0], [1, 1, 99])  # red, green, blue
