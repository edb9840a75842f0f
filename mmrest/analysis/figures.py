"""Figures of maps over the image: attention, decay, receptive fields and features."""

import math
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

COLUMNS = 8  # maximum number of heads per row


class Group(NamedTuple):
    """Maps of one stage that share a colour scale.

    A map has numbers (h, w), or colours (h, w, 3) in [0, 1] or 8 bits, as tensor or array.
    """

    title: str
    panels: Dict[str, Any]  # title -> map
    norm: Optional[Normalize] = None  # of numbers; None for colours
    cmap: str = 'viridis'
    label: str = ''  # of the colour bar


class Scene(NamedTuple):
    """Image that maps are drawn over, if there is one, and a pixel to mark."""

    size: Tuple[int, int]  # height and width, in pixels
    image: Optional[np.ndarray] = None  # (H, W, 3), RGB, 8 bits
    point: Optional[Tuple[int, int]] = None  # row and column


def draw(groups: List[Group], scene: Scene, path: Path) -> None:
    """Save a figure of maps to `path`.

    Groups of one map are drawn side by side, groups of several maps one below the other.
    """
    most = max(len(group.panels) for group in groups)
    if scene.image is not None:
        groups = [Group('image', {'': scene.image}), *groups]
    aspect = scene.size[0] / scene.size[1]
    if most == 1:
        columns, across = 1, min(len(groups), 2 if len(groups) == 4 else 3)
        heights = [2.6 * aspect + 0.9] * math.ceil(len(groups) / across)
        figure = Figure((3.4 * across, sum(heights)), dpi=85, layout='constrained')
        cells = figure.subplots(len(heights), across, squeeze=False)
        places = [(figure, np.array([[axis]])) for axis in cells.flat]
        for axis in cells.flat[len(groups) :]:
            axis.set_axis_off()
    else:
        columns = min(max(most, 3), COLUMNS)
        rows = [math.ceil(len(group.panels) / columns) for group in groups]
        heights = [(1.35 * aspect + 0.3) * row + 0.75 for row in rows]
        figure = Figure((1.45 * columns + 1.1, sum(heights)), dpi=85, layout='constrained')
        parts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights).flat
        places = [(p, p.subplots(row, columns, squeeze=False)) for p, row in zip(parts, rows)]
    for (part, axes), group in zip(places, groups):
        if columns > 1:
            part.suptitle(group.title.replace('\n', ', '), fontsize=10, x=0.01, ha='left')
        _draw_group(part, axes, group, scene)
    figure.get_layout_engine().set(h_pad=0.1)  # two-line titles need space
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _draw_group(part: Any, axes: np.ndarray, group: Group, scene: Scene) -> None:
    number, columns = len(group.panels), axes.shape[1]
    for index, (axis, (title, values)) in enumerate(zip(axes.flat, group.panels.items())):
        drawn = _show(axis, group, values, scene)
        above = [title] if columns > 1 else [group.title, title]
        axis.set_title('\n'.join(filter(None, above)), fontsize=8 if columns > 1 else 9)
        axis.locator_params(nbins=4)
        left, bottom = index % columns == 0, index + columns >= number
        axis.set_ylabel('y (pixels)' if left else '', fontsize=8)
        axis.set_xlabel('x (pixels)' if bottom else '', fontsize=8)
        axis.tick_params(labelsize=7, labelleft=left, labelbottom=bottom)
    for axis in axes.flat[number:]:
        axis.set_axis_off()
    if group.norm is not None:
        bar = part.colorbar(drawn, ax=axes, fraction=0.05, pad=0.02)
        bar.set_label(group.label, fontsize=8)
        bar.ax.tick_params(labelsize=7)
        if not isinstance(group.norm, LogNorm):
            bar.formatter.set_powerlimits((-2, 3))
            bar.ax.yaxis.get_offset_text().set_fontsize(7)


def _show(axis: Axes, group: Group, values: Any, scene: Scene) -> AxesImage:
    """Draw a map; numbers are drawn over the image in grey."""
    height, width = scene.size
    style = dict(extent=[0, width, height, 0], interpolation='nearest')
    if scene.image is not None and group.norm is not None:
        grey = scene.image.mean(-1)
        axis.imshow(grey, cmap='gray', vmin=-128, vmax=255, extent=style['extent'])
        style['alpha'] = 0.75
    drawn = axis.imshow(np.asarray(values), norm=group.norm, cmap=group.cmap, **style)
    if scene.point is not None:
        row, column = scene.point
        for colour, thickness in (('black', 2.4), ('white', 1.1)):
            axis.plot(column + 0.5, row + 0.5, '+', color=colour, markersize=8, mew=thickness)
    return drawn
