"""Curves: panels and style."""

import math
import re
import xml.etree.ElementTree as ElementTree

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
    ('loss', 'total', 'training loss'),
    ('decode.loss_ce', 'decode.ce', 'training loss'),
    ('val/loss', 'val/loss', 'loss on held-out images'),
    ('coco/bbox_mAP', 'box AP', 'metrics on held-out images'),
    ('coco/segm_mAP_50', 'mask AP50', 'metrics on held-out images'),
    ('mIoU', 'mIoU', 'metrics on held-out images (%)'),
    ('f/mIoU', 'f/mIoU', 'metrics on held-out images (%)'),
    ('pascal_voc/mAP', 'pascal_voc/mAP', 'metrics on held-out images'),
    ('decode.acc_seg', 'decode.acc_seg', 'accuracy in training (%)'),
    ('accuracy_top-1', 'accuracy_top-1', 'accuracy in training (%)'),
    ('accuracy/top1', 'accuracy/top1', 'metrics on held-out images (%)'),
    ('single-label/f1-score', 'single-label/f1-score', 'metrics on held-out images (%)'),
    ('single-label/support', 'single-label/support', 'metrics on held-out images'),
    ('memory', 'memory', 'peak memory (MB)'),
    ('ema_decay', 'ema_decay', 'ema_decay'),
])  # fmt: skip
def test_names(key, title, quantity):
    assert curves.title_of(key) == title and curves.quantity_of(key) == quantity


def test_panels():
    """One per quantity for one run, one per key for several."""
    keys = curves.default_keys(LOG)
    assert keys == [
        'loss', 'loss_cls', 'loss_box', 'coco/bbox_mAP', 'lr', 'img_per_s', 'memory',
    ]  # fmt: skip
    found = curves.panels([LOG], keys)
    assert [panel.quantity for panel in found] == [
        'training loss', 'metrics on held-out images', 'learning rate', 'img/s',
        'peak memory (MB)',
    ]  # fmt: skip
    assert [name for name, _ in found[0].lines] == ['total', 'cls', 'box']
    assert found[1].lines == [('box AP', [(20, 0.2), (30, 0.4)])] and found[1].top == 1
    found = curves.panels([LOG, LOG._replace(name='other')], ['loss', 'bbox_mAP'])
    assert [panel.title for panel in found] == ['loss', 'bbox_mAP']
    assert [name for panel in found for name, _ in panel.lines] == ['run', 'other'] * 2


@pytest.mark.parametrize('key, value, top', [
    ('f/mIoU', 0.4, 100), ('pascal_voc/mAP', 0.4, 1), ('multi-label/mAP', 0.4, 100),
    ('accuracy/top1', 0.4, 100),
])  # fmt: skip
def test_limits_of_metrics(key, value, top):
    for values in ((value, math.nan), (math.nan, value)):
        log = LOG._replace(val=[(20, {key: values[0]}), (30, {key: values[1]})])
        assert [panel.top for panel in curves.panels([log], [key])] == [top]


@pytest.mark.parametrize('count, legends', [(1, 2), (12, 1)])
def test_figure(tmp_path, monkeypatch, count, legends):
    """Axes are named; one run has a legend per panel, several have one below all panels."""
    kept = []
    monkeypatch.setattr(Figure, 'savefig', lambda self, *args, **kw: kept.append(self))
    logs = [LOG._replace(name=f'a run of a rather long name {n}') for n in range(count)]
    curves.draw_curves(logs, tmp_path / 'x.png', curves.default_keys(LOG), 'Title')
    (figure,) = kept
    axes = [axis for axis in figure.axes if axis.lines]
    assert all(axis.get_xlabel() == 'iteration' and axis.get_ylabel() for axis in axes)
    assert sum(axis.get_legend() is not None for axis in axes) + len(figure.legends) == legends
    FigureCanvasAgg(figure).draw()
    for legend in figure.legends:
        extent = legend.get_window_extent()
        assert extent.y0 >= 0
        assert not any(extent.overlaps(axis.get_window_extent()) for axis in axes)
        assert len({(line.get_color(), line.get_linestyle()) for line in legend.get_lines()}) == 12


def test_names_are_shown_as_they_are(tmp_path):
    """Names are not hidden or parsed as mathematics."""
    names = ('_run', r'$\run{$')
    train = [{'iter': step, names[1]: 1.0, f'loss_{names[1]}': 1.0, 'loss': 1} for step in (1, 2)]
    logs = [Log(name, train, []) for name in names]
    curves.draw_curves(logs, tmp_path / 'x.svg', [names[1]], names[1])
    comments = re.findall('<!-- (.*?) -->', (tmp_path / 'x.svg').read_text())
    assert comments.count('_run') == 1  # the legend
    assert comments.count(names[1]) == 4  # title, panel, axis and legend
    panel = curves.panels(logs[:1], [f'loss_{names[1]}', 'loss'])[0]
    assert f'>{names[1]}<' in curves.svg_of(panel, 'a', 'x')


def test_svg_for_a_page():
    """It is well-formed, has the page's text colour, and ids of its own."""
    (panel,) = curves.panels([LOG], ['loss'])
    texts = [curves.svg_of(panel, prefix, 'What "it" <is>') for prefix in 'ab']
    roots = [ElementTree.fromstring(text) for text in texts]
    ids = [{node.get('id') for node in root.iter() if node.get('id')} for root in roots]
    assert ids[0] and not ids[0] & ids[1]
    assert roots[0].get('aria-label') == 'What "it" <is>' and roots[0].get('role') == 'img'
    assert 'currentColor' in texts[0] and 'http' not in texts[0].replace('http://www.w3.org', '')
