"""Where labels go in a picture: at what they name, and never over one another."""

from typing import Optional, Sequence, Tuple

import numpy as np

Box = Tuple[float, float, float, float]
"""Left, top, right, bottom in pixels; rows count downwards."""


def free_place(
    box: Box,
    size: Tuple[float, float],
    picture: Box,
    taken: Sequence[Box],
    reach: float = np.inf,
) -> Optional[Box]:
    """A place for the label of a box, inside the picture, that covers no other label.

    Above the box is the first choice, then inside at its top, below it, inside at its bottom, or
    else as near to its top as there is room.

    Args:
        box: what the label names.
        size: width and height of the label in pixels.
        picture: where it must lie.
        taken: the places of the labels so far.
        reach: how many pixels away from the top of the box a label may be.

    Returns:
        The place, or None where there is none.
    """
    left, top, _, bottom = box
    width, height = size
    x = max(picture[0], min(left, picture[2] - width))
    rows = np.arange(picture[1], picture[3] - height, height / 2)
    near = sorted(rows[np.abs(rows - top) <= reach].tolist(), key=lambda row: abs(row - top))
    for y in (top - height, top, bottom, bottom - height, *near):
        place = (x, y, x + width, y + height)
        inside = picture[1] <= y and y + height <= picture[3]
        if inside and not any(overlap(place, other) for other in taken):
            return place
    return None


def overlap(a: Box, b: Box) -> bool:
    """Whether two boxes share more than an edge."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
