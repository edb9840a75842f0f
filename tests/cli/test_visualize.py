"""mmrest visualize: every subcommand draws its values over the full image."""

import cv2
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmrest.analysis.networks import backbone_config, build_network, network_config
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
    """Axes with a map, by title."""
    axes = [axis for axis in figure.axes if axis.images]
    return {axis.get_title(): axis for axis in axes}


def assert_legible(figure):
    """Axes are named, and no text overlaps another."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    named = [axis for axis in figure.axes if axis.images and axis.get_xlabel()]
    assert {axis.get_xlabel() for axis in named} == {'x (pixels)'}
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
    axes = axes_of(figure)
    assert len([axis for axis in figure.axes if axis.images]) == 1 + 2 + 3 + 4
    values = axes['head 1: $\\gamma$ = 0.7500'].images[-1].get_array()
    assert values.shape == (2, 3) and values[0, 2] == 1 and values[1, 0] == pytest.approx(0.75**3)
    assert all(axis.images[-1].get_extent() == [0, 96, 64, 0] for axis in axes.values())
    assert all(axis.images[-1].get_clim() == (0, 1) for axis in axes.values())
    assert_legible(figure)
    assert cv2.imread('work_dirs/visualize/rmt_decay.png').std() > 10


def test_attention_of_masa(folder, monkeypatch):
    """The mean of the heads is drawn next to the image, on a scale from 0."""
    figure = drawn(monkeypatch, 'attention', 'rmt.py', '--image', 'a.jpg', '--out', 'new/x.png')
    axes = [axis for axis in figure.axes if axis.images]
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
    axes = [axis for axis in figure.axes if axis.images and 'head' in axis.get_title()]
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
    every = axes_of(drawn(monkeypatch, *args, '--head', 'all'))
    one = drawn(monkeypatch, *args, '--head', '2').axes[1]
    assert 'head 2' in one.get_title()
    expected = every['head 2'].images[-1].get_array()
    np.testing.assert_array_equal(one.images[-1].get_array(), expected)


@pytest.mark.parametrize('images', [[], ['--image', 'a.jpg', 'b.png']])
def test_receptive_field(folder, monkeypatch, images):
    options = images or ['--size', '64', '96', '--samples', '2']
    figure = drawn(monkeypatch, 'receptive-field', 'rest.py', *options)
    axes = [axis for axis in figure.axes if axis.images]
    height, width = (60, 80) if images else (64, 96)
    assert len(axes) == 4
    for number, axis in enumerate(axes, start=1):
        values = axis.images[-1].get_array()
        assert values.shape == (height, width) and values.max() == 1
        assert axis.get_title().startswith(f'stage {number}\nhalf in ')
    assert_legible(figure)


def test_images_of_four_channels(folder, monkeypatch):
    """A receptive field of noise needs no image."""
    options = ['--size', '32', '--samples', '1', '--cfg-options', 'model.backbone.in_channels=4']
    figure = drawn(monkeypatch, 'receptive-field', 'rest.py', *options)
    assert len([axis for axis in figure.axes if axis.images]) == 4


@pytest.mark.parametrize('neck', [False, True])
def test_pca(folder, monkeypatch, neck):
    args = ['pca', 'rmt.py', '--image', 'a.jpg', *['--neck'] * neck]
    figure = drawn(monkeypatch, *args)
    axes = [axis for axis in figure.axes if axis.images][1:]
    assert len(axes) == (5 if neck else 4)
    for number, axis in enumerate(axes, start=1):
        assert axis.get_title().startswith(f'{"level" if neck else "stage"} {number}: ')
        colours = axis.images[-1].get_array()
        assert colours.shape == (-(-60 // (2 << number)), -(-80 // (2 << number)), 3)
        assert colours.min() >= 0 and colours.max() <= 1
    assert_legible(figure)


def test_weights_of_a_file(folder, monkeypatch):
    """A checkpoint of a full network changes the figure of its backbone."""
    network = build_network(backbone_config(network_config('rmt.py')))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    state = {f'backbone.{name}': value for name, value in network.state_dict().items()}
    torch.save(dict(state_dict=state), 'x.pth')
    args = ('attention', 'rmt.py', '--image', 'a.jpg', '--stage', '2')
    found = [
        drawn(monkeypatch, *args, *more).axes[1].images[-1].get_array()
        for more in ([], [], ['--checkpoint', 'x.pth'])
    ]
    np.testing.assert_array_equal(found[0], found[1])
    assert abs(found[0] - found[2]).max() > 1e-3
