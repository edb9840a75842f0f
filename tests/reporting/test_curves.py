"""Curves: panels and style."""

import math
import re
from dataclasses import replace

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmrest.reporting import curves
from mmrest.reporting.logs import Log

TRAIN = [
    dict(iter=step, lr=0.1 / step, loss=4.0 / step, loss_cls=3.0 / step, loss_box=1.0 / step,
         img_per_s=5.0, memory=900.0, grad_norm=2.0)
    for step in (10, 20, 30)
]  # fmt: skip
LOG = Log('run', TRAIN, [(20, {'coco/bbox_mAP': 0.2}), (30, {'coco/bbox_mAP': 0.4})])


@pytest.mark.parametrize('key, title, quantity', [
    ('decode.loss_ce', 'decode.ce', 'training loss'),
    ('val/loss', 'val/loss', 'loss on held-out images'),
    ('coco/segm_mAP_50', 'mask AP50', 'metrics on held-out images'),
    ('f/mIoU', 'f/mIoU', 'metrics on held-out images (%)'),
    ('pascal_voc/mAP', 'pascal_voc/mAP', 'metrics on held-out images'),
    ('multi-label/mAP', 'multi-label/mAP', 'metrics on held-out images (%)'),
    ('single-label/support', 'single-label/support', 'metrics on held-out images'),
    ('ema_decay', 'ema_decay', 'ema_decay'),
])  # fmt: skip
def test_names(key, title, quantity):
    assert curves.title_of(key) == title and curves.quantity_of(key) == quantity


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Return a function that draws curves and returns the figure."""
    kept = []
    monkeypatch.setattr(Figure, 'savefig', lambda self, *args, **kw: kept.append(self))
    return lambda *args: curves.draw_curves(*args) or kept.pop()


def test_one_run(drawn, tmp_path):
    """There is one plot per quantity, from 0, with a legend."""
    keys = curves.default_keys(LOG)
    assert keys == [
        'loss', 'loss_cls', 'loss_box', 'coco/bbox_mAP', 'lr', 'img_per_s', 'memory',
    ]  # fmt: skip
    axes = [axis for axis in drawn([LOG], tmp_path / 'x.png', keys).axes if axis.lines]
    assert [axis.get_ylabel() for axis in axes] == [
        'training loss', 'metrics on held-out images', 'learning rate', 'img/s',
        'peak memory (MB)',
    ]  # fmt: skip
    assert all(axis.get_xlabel() == 'iteration' and axis.get_ylim()[0] == 0 for axis in axes)
    names = [text.get_text().strip() for text in axes[0].get_legend().get_texts()]
    assert names == ['total', 'cls', 'box']
    assert axes[1].lines[0].get_xydata().tolist() == [[20, 0.2], [30, 0.4]]


def test_several_runs(drawn, tmp_path):
    """There is one plot per key, and one legend below all plots."""
    logs = [replace(LOG, name=f'a run of a rather long name {n}') for n in range(12)]
    figure = drawn(logs, tmp_path / 'x.png', ['loss', 'bbox_mAP'], 'Title')
    assert [axis.get_title() for axis in figure.axes] == ['loss', 'bbox_mAP']
    assert all(len(axis.lines) == 12 and axis.get_legend() is None for axis in figure.axes)
    FigureCanvasAgg(figure).draw()
    (legend,) = figure.legends
    extent = legend.get_window_extent()
    assert extent.y0 >= 0
    assert not any(extent.overlaps(axis.get_window_extent()) for axis in figure.axes)
    assert len({(line.get_color(), line.get_linestyle()) for line in legend.get_lines()}) == 12


def test_names_are_shown_as_they_are(tmp_path):
    """Names are not hidden or parsed as mathematics; values that are not finite are not drawn."""
    names = ('_run', r'$\run{$')
    train = [{'iter': step, names[1]: value} for step, value in ((1, 1.0), (2, math.nan))]
    logs = [Log(name, train, []) for name in names]
    curves.draw_curves(logs, tmp_path / 'x.svg', [names[1]], names[1])
    comments = re.findall('<!-- +(.*?) +-->', (tmp_path / 'x.svg').read_text())
    assert comments.count('_run') == 1  # the legend
    assert comments.count(names[1]) == 4  # title, plot, axis and legend
