"""Training curves."""

import math
import re
from itertools import product
from pathlib import Path
from typing import BinaryIO, Dict, List, Sequence, Tuple, Union

from cycler import cycler
from matplotlib import rc_context
from matplotlib.colors import TABLEAU_COLORS
from matplotlib.figure import Figure

from .logs import MAIN_METRIC, PERCENTAGE, Log

SUFFIXES = ('.png', '.svg', '.pdf', '.jpg')
"""File formats of figures."""

STYLE = {
    'axes.grid': True,
    'axes.prop_cycle': cycler(linestyle=['-', '--', ':', '-.']) * cycler(color=TABLEAU_COLORS),
    'grid.alpha': 0.3,
    'savefig.format': 'png',
    'text.parse_math': False,  # names may contain dollar signs
}

QUANTITIES = {
    'lr': 'learning rate',
    'base_lr': 'learning rate',
    'time': 'seconds per iteration',
    'img_per_s': 'img/s',
    'memory': 'peak memory (MB)',
    'memory_mb': 'peak memory (MB)',
    'grad_norm': 'gradient norm',
}
"""Key -> label of the axis, with its unit."""


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
    name = re.sub('^val/', '', key)
    if 'loss' in name:
        return 'training loss' if key == name else 'loss on held-out images'
    if '/' in name or MAIN_METRIC.fullmatch(name):
        unit = ' (%)' if PERCENTAGE.fullmatch(name) else ''
        return f'metrics on held-out images{unit}'
    return QUANTITIES.get(name, name)


def default_keys(log: Log) -> List[str]:
    """Return the default keys: losses, learning rate, main metrics, throughput and memory."""
    keys = log.curves
    rate = 'img_per_s' if 'img_per_s' in keys else 'time'
    others = [key for key in ('lr', rate, 'memory', 'memory_mb') if key in keys]
    return [*log.losses, *log.main_metrics, *others]


def draw_curves(
    logs: Sequence[Log], out: Union[Path, BinaryIO], keys: Sequence[str], title: str = ''
) -> None:
    """Plot curves over iterations, with one plot per quantity, or per key for several runs.

    The suffix of an output path selects the format; other outputs are PNG files.

    Raises:
        UsageError: a run has not logged a key.
    """
    several = len(logs) > 1
    plots: Dict[Tuple[str, str], List[str]] = {}  # title and quantity -> keys
    for key in keys:
        name = logs[0].full_name(key)
        plots.setdefault((key if several else '', quantity_of(name)), []).append(name)
    columns = min(len(plots), 2 if len(plots) == 4 else 3)
    rows = math.ceil(len(plots) / columns)
    with rc_context(STYLE):
        figure = Figure((5.5 * columns, 3.8 * rows + 0.25 * len(logs)), layout='constrained')
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, ((above, quantity), names) in zip(axes, plots.items()):
            for name, log in product(names, logs):
                points = log.points(above or name)
                # matplotlib hides labels that begin with an underscore.
                label = f' {log.name if several else title_of(name)}'
                axis.plot(*zip(*points), marker='o' if len(points) <= 12 else '', label=label)
            axis.set(title=above, xlabel='iteration', ylabel=quantity)
            if axis.dataLim.ymin >= 0:  # few logged quantities are negative
                axis.set_ylim(bottom=0)
            if not several:  # below the axes, so that it does not cover curves
                axis.legend(loc='upper center', bbox_to_anchor=(0.5, -0.16), ncols=3, fontsize=9)
        for axis in axes[len(plots) :]:
            axis.set_axis_off()
        if several:
            figure.legend(handles=axes[0].get_lines(), loc='outside lower left')
        if title:
            figure.suptitle(title)
        figure.savefig(out, dpi=110)
