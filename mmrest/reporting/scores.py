"""What an evaluation says of classes and of single images."""

from pathlib import Path
from typing import Any, List, NamedTuple, Tuple


class Shown(NamedTuple):
    """An image with what is in it and what was found.

    Attributes:
        path: of the image file.
        truth: instances (``bboxes`` in pixels of the file, ``labels``, maybe ``masks``), or a
            label map (H, W).
        found: the same, with ``scores`` of instances.
    """

    path: Path
    truth: Any
    found: Any


class Table(NamedTuple):
    """Metrics by class: what the columns are called, and a row of values per class (nan: none)."""

    columns: List[str]
    rows: List[Tuple[str, List[float]]]
