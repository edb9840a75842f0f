"""mmrest visualize: every subcommand draws its values over the full image."""

import cv2
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmrest.analysis.networks import backbone_config, build_network, network_config
from tests.models.networks import randomised
from tests.runs import DETECTOR, SEGMENTOR, run_here

TINY = {'rmt.py': DETECTOR, 'rest.py': SEGMENTOR}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Working folder with small configs and two images."""
    for name, text in TINY.items():
        (tmp_path / name).write_text(text)
    for name, shape in (('a.jpg', (60, 80, 3)), ('b.png', (50, 50, 3))):
        image = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
        cv2.imwrite(str(tmp_path / name), image)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def drawn(monkeypatch, *args):
    """Return the figure that is saved."""
    figures, save = [], Figure.savefig
    with monkeypatch.context() as patch:
        patch.setattr(Figure, 'savefig', lambda *a: figures.append(a[0]) or save(*a))
        assert not run_here('visualize', *args)
    return figures.pop()


def axes_of(figure):
    """Axes with a map."""
    return [axis for axis in figure.axes if axis.images]


def values_of(figure):
    """Values of each map, by title."""
    return {axis.get_title(): axis.images[-1].get_array() for axis in axes_of(figure)}


def assert_legible(figure):
    """Axes are named, and no text overlaps another."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    assert {axis.get_xlabel() for axis in axes_of(figure)} - {''} == {'x (pixels)'}
    assert any(axis.get_ylabel() == 'y (pixels)' for axis in figure.axes)
    texts = [axis.title for axis in figure.axes if axis.get_title()]
    for part in (figure, *figure.subfigs):
        texts += [part._suptitle] if part._suptitle is not None else []
    boxes = [text.get_window_extent(renderer) for text in texts]
    for index, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
        assert not any(box.overlaps(other) for other in boxes[:index])


def test_decay(folder, monkeypatch):
    figure = drawn(monkeypatch, 'decay', 'rmt.py', '--size', '64', '96', '--token', '0', '95')
    assert len(axes_of(figure)) == 1 + 2 + 3 + 4
    values = values_of(figure)['head 1: $\\gamma$ = 0.7500']
    assert values.shape == (2, 3) and values[0, 2] == 1 and values[1, 0] == pytest.approx(0.75**3)
    for axis in axes_of(figure):
        assert axis.images[-1].get_extent() == [0, 96, 64, 0]
        assert axis.images[-1].get_clim() == (0, 1)
    assert_legible(figure)
    assert cv2.imread('work_dirs/visualize/rmt_decay.png').std() > 10


def test_attention_of_masa(folder, monkeypatch):
    """The mean of the heads is drawn next to the image, on a scale from 0."""
    figure = drawn(monkeypatch, 'attention', 'rmt.py', '--image', 'a.jpg', '--out', 'new/x.png')
    axes = axes_of(figure)
    assert axes[0].get_title() == 'image' and len(axes) == 5
    np.testing.assert_array_equal(axes[0].images[0].get_array(), cv2.imread('a.jpg')[..., ::-1])
    for axis in axes[1:]:
        values = axis.images[-1].get_array()
        assert values.sum() == pytest.approx(1, abs=1e-4)
        assert axis.images[-1].get_clim() == (0, pytest.approx(values.max()))
    assert_legible(figure)
    assert (folder / 'new' / 'x.png').is_file()


def test_attention_of_emsa(folder, monkeypatch):
    """Signed weights of every head have one diverging scale around 0."""
    figure = drawn(
        monkeypatch, 'attention', 'rest.py', '--image', 'a.jpg', '--head', 'all', '--stage', '2',
        '3', '--size', '96',
    )  # fmt: skip
    axes = [axis for axis in axes_of(figure) if 'head' in axis.get_title()]
    assert [axis.get_title()[-1] for axis in axes] == ['1', '2', '1', '2', '3']
    for stage in (axes[:2], axes[2:]):
        values = np.stack([axis.images[-1].get_array() for axis in stage])
        assert values.min() < 0 < values.max()
        limits = {axis.images[-1].get_clim() for axis in stage}
        largest = pytest.approx(abs(values).max())
        assert len(limits) == 1 and limits.pop() == (-abs(values).max(), largest)
    assert axes[0].images[-1].get_cmap().name == 'RdBu_r'
    assert_legible(figure)


def test_one_head(folder, monkeypatch):
    """The selected head is drawn."""
    args = ('attention', 'rmt.py', '--image', 'a.jpg', '--stage', '2')
    every = values_of(drawn(monkeypatch, *args, '--head', 'all'))
    _, (title, one) = values_of(drawn(monkeypatch, *args, '--head', '2')).items()
    assert 'head 2' in title
    np.testing.assert_array_equal(one, every['head 2'])


@pytest.mark.parametrize('options, size', [
    ('--size 64 96 --samples 2', (64, 96)), ('--image a.jpg b.png', (60, 80)),
    ('--size 32 --samples 1 --cfg-options model.backbone.in_channels=4', (32, 32)),
])  # fmt: skip
def test_receptive_field(folder, monkeypatch, options, size):
    figure = drawn(monkeypatch, 'receptive-field', 'rest.py', *options.split())
    found = values_of(figure)
    assert len(found) == 4
    for number, (title, values) in enumerate(found.items(), start=1):
        assert values.shape == size and values.max() == 1
        assert title.startswith(f'stage {number}\nhalf in ')
    assert_legible(figure)


@pytest.mark.parametrize('neck', [False, True])
def test_pca(folder, monkeypatch, neck):
    args = ['pca', 'rmt.py', '--image', 'a.jpg', *['--neck'] * neck]
    figure = drawn(monkeypatch, *args)
    _, *found = values_of(figure).items()
    assert len(found) == (5 if neck else 4)
    for number, (title, colours) in enumerate(found, start=1):
        assert title.startswith(f'{"level" if neck else "stage"} {number}: ')
        assert colours.shape == (-(-60 // (2 << number)), -(-80 // (2 << number)), 3)
        assert colours.min() >= 0 and colours.max() <= 1
    assert_legible(figure)


def test_weights_of_a_file(folder, monkeypatch):
    """A checkpoint of a full network changes the figure of its backbone."""
    network = randomised(build_network(backbone_config(network_config('rmt.py'))))
    state = {f'backbone.{name}': value for name, value in network.state_dict().items()}
    torch.save(dict(state_dict=state), 'x.pth')
    args = ('attention', 'rmt.py', '--image', 'a.jpg', '--stage', '2')
    found = [
        drawn(monkeypatch, *args, *more).axes[1].images[-1].get_array()
        for more in ([], [], ['--checkpoint', 'x.pth'])
    ]
    np.testing.assert_array_equal(found[0], found[1])
    assert abs(found[0] - found[2]).max() > 1e-3
