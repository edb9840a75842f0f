"""Training curves, as files and as SVG for the report."""

import html
import io
import math
import re
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from cycler import cycler
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .logs import MAIN_METRIC, PERCENTAGE, Log, Points

# Distinct on white and on black.
COLOURS = ('#2f7fd1', '#e07b1a', '#2e9e4f', '#d6453d', '#9468c4', '#a0694f', '#d566ae', '#1aa5b5')
CYCLE = cycler(linestyle=['-', '--', ':', '-.']) * cycler(color=COLOURS)

SUFFIXES = ('.png', '.svg', '.pdf', '.jpg')
"""File formats of figures."""

INK = '#010203'
"""Placeholder for the page's text colour."""

QUANTITIES = {
    '(base_)?lr': 'learning rate',
    '(data_)?time': 'seconds per iteration',
    'img_per_s': 'img/s',
    'memory(_mb)?': 'peak memory (MB)',
    'grad_norm': 'gradient norm',
    '(.*[._])?acc[^/]*': 'accuracy in training (%)',
    PERCENTAGE.pattern: 'metrics on held-out images (%)',
    f'.*/.*|{MAIN_METRIC.pattern}': 'metrics on held-out images',
}
"""Pattern of keys -> label of the axis, with its unit; the first match is used."""


class Panel(NamedTuple):
    """Curves that share their axes.

    Attributes:
        title: title, or empty.
        quantity: label of the vertical axis, with its unit.
        lines: name in the legend and points of each curve; there is at least one point.
        top: upper limit of the vertical axis, if known.
    """

    title: str
    quantity: str
    lines: List[Tuple[str, Points]]
    top: Optional[float] = None


def title_of(key: str) -> str:
    """Return the common name of a log key, such as box AP for coco/bbox_mAP."""
    if key == 'loss':
        return 'total'
    match = re.fullmatch(r'coco/(bbox|segm)_mAP(?:_(\w+))?', key)
    if match:
        return f'{ {"bbox": "box", "segm": "mask"}[match[1]] } AP{match[2] or ""}'
    return re.sub(r'(^|\.)loss_', r'\1', key)


def quantity_of(key: str) -> str:
    """Return the label of the axis for `key`, with its unit."""
    name = key[len('val/') :] if key.startswith('val/') else key
    if 'loss' in name:
        return 'training loss' if key == name else 'loss on held-out images'
    return next((text for keys, text in QUANTITIES.items() if re.fullmatch(keys, name)), name)


def default_keys(log: Log) -> List[str]:
    """Return the default keys: losses, learning rate, main metrics, throughput and memory."""
    keys = log.curves
    rate = 'img_per_s' if 'img_per_s' in keys else 'time'
    others = [key for key in ('lr', rate, 'memory', 'memory_mb') if key in keys]
    return [*log.losses, *log.main_metrics, *others]


def panels(logs: Sequence[Log], keys: Sequence[str]) -> List[Panel]:
    """Arrange curves in panels: one per quantity for one run, one per key for several.

    Raises:
        UsageError: a run has not logged a key.
    """
    several = len(logs) > 1
    groups: Dict[Tuple[str, str], List[str]] = {}
    for key in keys:
        name = logs[0].full_name(key)
        groups.setdefault((key if several else '', quantity_of(name)), []).append(name)
    found = []
    for (title, quantity), names in groups.items():
        lines = [
            (log.name if several else title_of(name), log.points(title or name))
            for name in names
            for log in logs
        ]
        top = None
        if all(MAIN_METRIC.fullmatch(name) for name in names):
            top = 100 if PERCENTAGE.fullmatch(names[0]) else 1
        found.append(Panel(title, quantity, lines, top))
    return found


def draw_curves(
    logs: Sequence[Log], path: Path, keys: Sequence[str], title: Optional[str] = None
) -> None:
    """Plot curves over iterations.

    Args:
        logs: logs of one run, or of several to compare.
        path: output file; its suffix selects the format.
        keys: log keys.
        title: figure title.

    Raises:
        UsageError: a run has not logged a key.
    """
    found = panels(logs, keys)
    columns = min(len(found), 2 if len(found) in (2, 4) else 3)
    rows = math.ceil(len(found) / columns)
    size = (5.5 * columns, 3.8 * rows + 0.25 * len(logs))
    figure = Figure(figsize=size, layout='constrained')
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, panel in zip(axes.flat, found):
        _draw(axis, panel, with_legend=len(logs) == 1)
    for axis in axes.flat[len(found) :]:
        axis.set_axis_off()
    if len(logs) > 1:
        names = [name for name, _ in found[0].lines]
        _add_legend(figure, axes.flat[0].get_lines(), names, loc='outside lower left')
    if title is not None:
        figure.suptitle(title, parse_math=False)
    figure.savefig(path, dpi=110)


def _draw(axis: Axes, panel: Panel, with_legend: bool = True) -> None:
    axis.set_prop_cycle(CYCLE)
    longest = max(len(points) for _, points in panel.lines)
    for index, (_, points) in enumerate(panel.lines):
        # Coinciding curves stay visible: later ones are thinner, with smaller markers.
        style = dict(linewidth=max(1.2, 2.6 - 0.7 * index), clip_on=panel.top is None)
        if longest <= 12:
            style.update(marker='os^D'[index % 4], markersize=9 - 1.5 * (index % 4))
        axis.plot(*zip(*points), **style)
    axis.set_title(panel.title, parse_math=False)
    axis.set_xlabel('iteration')
    axis.set_ylabel(panel.quantity, parse_math=False)
    axis.set_xlim(0, None)
    values = [value for _, points in panel.lines for _, value in points if math.isfinite(value)]
    if values and min(values) >= 0:  # few logged quantities are negative
        axis.set_ylim(0, panel.top or 1.05 * max(values) or 1)
    axis.grid(alpha=0.3)
    if with_legend and (len(panel.lines) > 1 or panel.top is not None):
        # Below the axes, so that it does not cover curves.
        style = dict(loc='upper center', bbox_to_anchor=(0.5, -0.16), ncols=3, fontsize=9)
        names = [name for name, _ in panel.lines]
        _add_legend(axis, axis.get_lines(), names, frameon=False, **style)


def _add_legend(owner: Any, lines: Sequence[Line2D], names: Sequence[str], **style: Any) -> None:
    """Add a legend to a figure or axes.

    matplotlib hides names that begin with ``_`` and parses text between dollar signs as
    mathematics.
    """
    legend = owner.legend(lines, ['x'] * len(lines), **style)
    for text, name in zip(legend.get_texts(), names):
        text.set(text=name, parse_math=False)


def svg_of(panel: Panel, prefix: str, description: str) -> str:
    """Return a panel as an SVG element for an HTML page, in the page's font and text colour.

    Args:
        panel: curves to plot.
        prefix: prefix of all ids, unique in the page.
        description: alternative text.
    """
    style = {'svg.fonttype': 'none', 'svg.hashsalt': prefix, 'font.size': 10}
    for part in ('text.color', 'axes.edgecolor', 'axes.labelcolor', 'xtick.color', 'ytick.color'):
        style[part] = INK
    with rc_context(style):
        figure = Figure(figsize=(4.4, 3.3), layout='constrained')
        axis = figure.subplots()
        _draw(axis, panel)
        axis.grid(color=INK, alpha=0.2)
        buffer = io.StringIO()
        nothing = dict.fromkeys(('Creator', 'Date', 'Format', 'Type'))
        figure.savefig(buffer, format='svg', transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index('<svg') :].replace(INK, 'currentColor')
    text = re.sub(r'(\bid="|url\(#|href="#)', rf'\g<1>{prefix}-', text)
    return text.replace('<svg', f'<svg role="img" aria-label="{html.escape(description)}"', 1)
