"""Colours of classes."""

import colorsys
from typing import Any, Dict, List, Optional, Sequence, Tuple

from ..errors import UsageError

RGB = Tuple[int, ...]


def colours(palette: Optional[Sequence[Sequence[int]]], count: int) -> List[RGB]:
    """Return `count` colours, as (red, green, blue) of 0 to 255; `palette` has the first ones."""
    known = palette if isinstance(palette, (list, tuple)) else ()
    known = [tuple(map(int, colour)) for colour in known][:count]
    for index in range(len(known), count):
        # Hues in steps of the golden ratio, so that neighbours differ.
        channels = colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.75, 0.9)
        known.append(tuple(round(255 * channel) for channel in channels))
    return known


def classes_and_colours(dataset: Any) -> Tuple[Sequence[str], List[RGB]]:
    """Return names and colours of a dataset's classes; raise UsageError if it has no names."""
    classes = dataset.metainfo.get('classes')
    if classes is None:
        kind = type(dataset).__name__
        raise UsageError(f'{kind} has no names of classes; set metainfo.classes of the dataset')
    return classes, colours(dataset.metainfo.get('palette'), len(classes))


def fill_palette(metainfo: Optional[Dict[str, Any]]) -> None:
    """Complete the palette of a dataset in place; mmdet and mmseg fail if a colour is missing."""
    classes, palette = (metainfo or {}).get('classes'), (metainfo or {}).get('palette')
    if isinstance(classes, (list, tuple)) and isinstance(palette, (list, tuple)):
        if len(palette) < len(classes):
            metainfo['palette'] = colours(palette, len(classes))
