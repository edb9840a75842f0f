"""Legends whose names are shown as they are."""

from typing import Any, Sequence

from matplotlib.artist import Artist
from matplotlib.legend import Legend


def add_legend(
    owner: Any, handles: Sequence[Artist], names: Sequence[str], **style: Any
) -> Legend:
    """Add a legend to a figure or to axes.

    matplotlib by itself leaves out what begins with ``_``, and takes what stands between dollars
    for mathematics.

    Args:
        owner: figure or axes.
        handles: what is named.
        names: of each.
        style: arguments of matplotlib's ``legend``.
    """
    legend = owner.legend(handles, ['x'] * len(handles), **style)
    for text, name in zip(legend.get_texts(), names):
        text.set(text=name, parse_math=False)
    return legend
