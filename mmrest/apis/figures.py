"""Figures of what goes on inside a network: heat maps and colours over an image."""

import math
from pathlib import Path
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

import matplotlib
import numpy as np
from matplotlib.colors import LogNorm, Normalize, TwoSlopeNorm
from torch import Tensor

from .attention_maps import AttentionMap, Decay
from .feature_pca import Components
from .receptive_field import ReceptiveField

matplotlib.use('Agg')  # files only, with or without a screen
from matplotlib import pyplot as plt

COLUMNS = 8
"""Heads that stand side by side."""

WIDE = 3
"""Maps that stand side by side where each stage has one."""


class Panel(NamedTuple):
    """A map over the image: of numbers (h, w), or of colours (h, w, 3) in [0, 1]."""

    title: str
    values: np.ndarray


class Group(NamedTuple):
    """Maps of one stage, with the scale of colours that they share.

    Attributes:
        title: of the stage.
        panels: its maps.
        norm: the scale; None for colours.
        cmap: name of matplotlib's colour map.
        label: what the colours stand for.
    """

    title: str
    panels: Sequence[Panel]
    norm: Optional[Normalize] = None
    cmap: str = 'viridis'
    label: str = ''


class Scene(NamedTuple):
    """What maps lie over.

    Attributes:
        size: height and width of the image, pixels.
        image: (H, W, 3), RGB, of 8 bits; None where there is none.
        point: row and column of the pixel that is looked from.
    """

    size: Tuple[int, int]
    image: Optional[np.ndarray] = None
    point: Optional[Tuple[int, int]] = None


def draw_decays(decays: Sequence[Decay], scene: Scene, path: Path) -> None:
    """Draw the decay of every head of every stage for one token."""
    groups = []
    for stage, (gamma, weights, token, axial) in enumerate(decays, start=1):
        panels = [
            Panel(f'head {head}: $\\gamma$ = {value:.4f}', each.numpy())
            for head, (value, each) in enumerate(zip(gamma.tolist(), weights), start=1)
        ]
        kind = 'axial' if axial else 'full'
        title = f'stage {stage}, {kind}, token {token}, {_tokens(weights)} keys'
        groups.append(Group(title, panels, Normalize(0, 1), 'viridis', 'decay'))
    _draw(groups, scene, path)


def draw_attention(
    maps: Sequence[Tuple[str, AttentionMap]], head: Optional[int], scene: Scene, path: Path
) -> None:
    """Draw what a token attends to.

    Weights of one sign have a scale from 0, signed ones a diverging one around 0.

    Args:
        maps: name of a block and its weights.
        head: counted from 0; -1 draws each, None the mean.
        scene: with the image.
        path: file for the picture.
    """
    groups = []
    for name, (weights, token, _, kind) in maps:
        if head is None:
            panels = [Panel('mean of the heads' * (len(weights) > 1), weights.mean(0).numpy())]
        else:
            chosen = range(len(weights)) if head == -1 else [head]
            panels = [Panel(f'head {each + 1}', weights[each].numpy()) for each in chosen]
        values = np.stack([panel.values for panel in panels])
        largest = np.abs(values).max() or 1.0
        signed = values.min() < 0
        norm = TwoSlopeNorm(0, -largest, largest) if signed else Normalize(0, largest)
        cmap = 'RdBu_r' if signed else 'Reds'
        title = f'{name}, {kind}\ntoken {token}, {_tokens(weights)} keys'
        groups.append(Group(title, panels, norm, cmap, 'weight'))
    _draw(groups, scene, path)


def draw_receptive_fields(
    fields: Sequence[Tuple[str, ReceptiveField]], scene: Scene, path: Path
) -> None:
    """Draw the effective receptive fields of maps.

    Args:
        fields: name of a map and its field.
        scene: of their size.
        path: file for the picture.
    """
    groups = []
    for name, (strength, half) in fields:
        title = f'{name}\nhalf in {half:.2%} of the pixels'
        panels = [Panel('', strength.clamp_min(1e-4).numpy())]
        groups.append(Group(title, panels, LogNorm(1e-3, 1), 'magma', 'relative strength'))
    _draw(groups, scene, path)


def draw_components(maps: Sequence[Tuple[str, Components]], scene: Scene, path: Path) -> None:
    """Draw the principal components of the levels of a pyramid as colours.

    Args:
        maps: name of a level and its components.
        scene: with the image.
        path: file for the picture.
    """
    groups = []
    for name, (colours, explained) in maps:
        shares = ' + '.join(f'{share:.0%}' for share in explained.tolist())
        title = f'{name}: {_tokens(colours[..., 0])}\nvariance {shares}'
        groups.append(Group(title, [Panel('', colours.numpy())]))
    _draw(groups, scene, path)


def _tokens(values: Tensor) -> str:
    return f'{values.shape[-2]} x {values.shape[-1]}'


def _draw(groups: Sequence[Group], scene: Scene, path: Path) -> None:
    """Draw a map for each group side by side, or groups of several below each other."""
    if all(len(group.panels) == 1 for group in groups):
        figure = _draw_singles(groups, scene)
    else:
        figure = _draw_rows(groups, scene)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


def _draw_singles(groups: Sequence[Group], scene: Scene) -> Any:
    number = len(groups) + (scene.image is not None)
    columns = 2 if number == 4 else min(number, WIDE)
    rows = math.ceil(number / columns)
    aspect = scene.size[0] / scene.size[1]
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(3.4 * columns, (2.6 * aspect + 0.9) * rows),
        dpi=85,
        squeeze=False,
        layout='constrained',
    )
    places = list(axes.flat)
    if scene.image is not None:
        _show_image(places.pop(0), scene)
    for axis, group in zip(places, groups):
        drawn = _show(axis, group, group.panels[0], scene)
        title = [group.title, group.panels[0].title]
        axis.set_title('\n'.join(filter(None, title)), fontsize=9)
        if group.norm is not None:
            _colour_bar(figure, drawn, axis, group)
    for axis in places[len(groups) :]:
        axis.set_axis_off()
    _name_axes(axes, number)
    return figure


def _draw_rows(groups: Sequence[Group], scene: Scene) -> Any:
    columns = min(COLUMNS, max(len(group.panels) for group in groups))
    columns = max(columns, 2 if scene.image is None else 3)
    aspect = scene.size[0] / scene.size[1]
    rows = [math.ceil(len(group.panels) / columns) for group in groups]
    heights = [(1.35 * aspect + 0.3) * row + 0.75 for row in rows]
    if scene.image is not None:
        heights.insert(0, 2 * aspect + 0.9)
    figure = plt.figure(figsize=(1.45 * columns + 1.1, sum(heights)), dpi=85, layout='constrained')
    parts = list(np.atleast_1d(figure.subfigures(len(heights), 1, height_ratios=heights)))
    if scene.image is not None:
        axis = parts.pop(0).subplots()
        axis.set_anchor('W')
        _show_image(axis, scene)
        _name_axes(np.array([[axis]]), 1)
    for part, group, row in zip(parts, groups, rows):
        axes = part.subplots(row, columns, squeeze=False)
        part.suptitle(group.title.replace('\n', ', '), fontsize=10, x=0.01, ha='left')
        for axis, panel in zip(axes.flat, group.panels):
            drawn = _show(axis, group, panel, scene)
            axis.set_title(panel.title, fontsize=8)
        for axis in list(axes.flat)[len(group.panels) :]:
            axis.set_axis_off()
        _name_axes(axes, len(group.panels))
        _colour_bar(part, drawn, axes, group)
    return figure


def _show_image(axis: Any, scene: Scene) -> None:
    axis.imshow(scene.image, extent=_extent(scene))
    axis.set_title('image', fontsize=9)
    _mark(axis, scene)


def _show(axis: Any, group: Group, panel: Panel, scene: Scene) -> Any:
    """Draw a map, over the image in grey where it is of numbers and there is an image."""
    style = dict(extent=_extent(scene), interpolation='nearest')
    over_image = scene.image is not None and group.norm is not None
    if over_image:
        grey = scene.image.mean(-1)
        axis.imshow(grey, cmap='gray', vmin=-128, vmax=255, extent=_extent(scene))
        style['alpha'] = 0.75
    drawn = axis.imshow(panel.values, norm=group.norm, cmap=group.cmap, **style)
    _mark(axis, scene)
    return drawn


def _extent(scene: Scene) -> List[int]:
    height, width = scene.size
    return [0, width, height, 0]


def _mark(axis: Any, scene: Scene) -> None:
    """Mark the pixel that is looked from."""
    if scene.point is not None:
        row, column = scene.point
        for colour, width in (('black', 2.4), ('white', 1.1)):
            axis.plot(column + 0.5, row + 0.5, '+', color=colour, markersize=8, mew=width)


def _name_axes(axes: np.ndarray, number: int) -> None:
    """Name the axes at the left and below; the others have the same."""
    columns = axes.shape[1]
    for index, axis in enumerate(axes.flat):
        axis.tick_params(labelsize=7)
        axis.locator_params(nbins=4)
        if index >= number:
            continue
        if index % columns == 0:
            axis.set_ylabel('y (pixels)', fontsize=8)
        else:
            axis.set_yticklabels([])
        if index + columns >= number:
            axis.set_xlabel('x (pixels)', fontsize=8)
        else:
            axis.set_xticklabels([])


def _colour_bar(figure: Any, drawn: Any, axes: Any, group: Group) -> None:
    bar = figure.colorbar(drawn, ax=axes, fraction=0.05, pad=0.02)
    bar.set_label(group.label, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    if not isinstance(group.norm, LogNorm):
        bar.formatter.set_powerlimits((-2, 3))
        bar.ax.yaxis.get_offset_text().set_fontsize(7)
