"""What inference is asked to look at: images, folders, patterns and videos."""

import glob
import os
from pathlib import Path
from typing import Iterator, List, NamedTuple, Sequence, Set, Tuple

import cv2
import numpy as np

from ..engine.errors import UsageError
from .images import UnreadableImage

VIDEOS = {'.avi', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.ts', '.webm', '.wmv'}
"""Suffixes of videos; every other file is read as an image."""


FASTEST = 240
"""Frames a second; above are clocks that a file notes in place of its rate."""


class Input(NamedTuple):
    """A file to look at.

    Attributes:
        path: of the file, as it was given or found in a folder.
        name: what its outputs are called, without a suffix and with folders; no two are equal.
    """

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        """Whether it is a video, by its suffix."""
        return self.path.suffix.lower() in VIDEOS


def find_inputs(given: Sequence[str], leave_out: Path, own: Sequence[Path] = ()) -> List[Input]:
    """List the files that were asked for, each once.

    Folders are searched with all below them; what begins with a point is left out there.

    Args:
        given: paths of files or folders, or patterns as of a shell (``**`` is any number of
            folders).
        leave_out: folder that is not searched, because outputs are written there.
        own: outputs themselves, files and folders, which are not found where `leave_out` is
            searched all the same: given as a folder, or by a pattern.

    Raises:
        UsageError: something does not exist, or a folder or pattern has nothing.
    """
    found = {}
    real = {os.path.realpath(path) for path in own}
    for text in given:
        for path, root in _files(text, leave_out, real):
            found.setdefault(os.path.abspath(path), (path, root))
    paths = [path for path, _ in found.values()]
    return [Input(path, name) for path, name in zip(paths, _names(list(found.values())))]


def _files(text: str, leave_out: Path, own: Set[str]) -> List[Tuple[Path, Path]]:
    """Files with the folder that their names are relative to."""
    path = Path(text if os.path.exists(text) else os.path.expanduser(text))
    if path.exists():
        matches = [path]
    elif glob.has_magic(text):
        matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        if not matches:
            raise UsageError(f'no file matches {text}; give another pattern')
        matches = [m for m in matches if own.isdisjoint(map(os.path.realpath, (m, *m.parents)))]
    else:
        raise UsageError(f'input {text} does not exist; give images, folders or videos')
    files = []
    for match in matches:
        if match.is_dir():
            skipped = own | {os.path.realpath(leave_out)}
            files += [(file, match) for file in _below(match, skipped)]
        else:
            files.append((match, match.parent))
    if not files:
        raise UsageError(f'{text} holds no file; give images, folders or videos')
    return files


def _below(folder: Path, skipped: Set[str]) -> Iterator[Path]:
    for where, folders, files in os.walk(folder):
        folders[:] = _kept(where, folders, skipped)
        yield from (Path(where, name) for name in _kept(where, files, skipped))


def _kept(where: str, names: Sequence[str], skipped: Set[str]) -> List[str]:
    return sorted(
        name
        for name in names
        if not name.startswith('.') and os.path.realpath(os.path.join(where, name)) not in skipped
    )


def _names(files: Sequence[Tuple[Path, Path]]) -> List[str]:
    """Names of outputs: as short as they can be with no two equal."""
    names = [path.relative_to(root).with_suffix('') for path, root in files]
    if len(set(names)) < len(names):
        absolute = [Path(os.path.abspath(path)) for path, _ in files]
        common = os.path.commonpath([path.parent for path in absolute])
        whole = [path.relative_to(common) for path in absolute]
        names = [path.with_suffix('') for path in whole]
        if len(set(names)) < len(names):
            names = whole
    return [name.as_posix() for name in names]


class Video:
    """The frames of a video, one after the other.

    Args:
        path: of the file.

    Attributes:
        announced: how many frames the file says it has; 0 where it does not say.
        rate: frames a second; 25 where the file does not say, or says what no camera does.

    Raises:
        UnreadableImage: it is no video that OpenCV can read.
    """

    def __init__(self, path: Path) -> None:
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise UnreadableImage(f'{path} is not a video that OpenCV can read')
        self.announced = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 0 < rate <= FASTEST else 25.0

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield (H, W, 3) uint8 frames, BGR; a video can be read once."""
        while True:
            is_read, frame = self._capture.read()
            if not is_read:
                break
            yield frame
        self._capture.release()


def announced_frames(path: Path) -> int:
    """How many frames a video says it has; 0 where it cannot be read or does not say."""
    try:
        return Video(path).announced
    except UnreadableImage:
        return 0
