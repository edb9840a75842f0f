"""Inputs of inference: images, folders, glob patterns and videos."""

import glob
import os
import warnings
from pathlib import Path
from typing import Any, Iterator, List, NamedTuple, NoReturn, Optional, Sequence, Set, Tuple, Union

import cv2
import numpy as np
from mmcv.transforms import LoadImageFromFile
from PIL import Image, UnidentifiedImageError

from ..errors import UsageError, first_line
from .overlay import drawable

# Every other file is read as an image.
VIDEOS = {
    '.3gp', '.avi', '.flv', '.m2ts', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.mts',
    '.ogv', '.ts', '.webm', '.wmv',
}  # fmt: skip
MAX_RATE = 240  # frames per second; higher values are the ticks of a clock, not a frame rate


class UnreadableImage(UsageError):
    """A file that is not an image or video, or is truncated."""


class Input(NamedTuple):
    """An image or video file, and the unique name of its outputs, with folders, without suffix."""

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEOS


def find_inputs(given: Sequence[str], outputs: Sequence[Path] = ()) -> List[Input]:
    """List input files, each once, of files, folders and patterns with ``*`` and ``**``.

    Folders are searched recursively. They and patterns skip hidden files and the `outputs` of
    earlier runs. UsageError is raised if something was not found, or a folder is empty.
    """
    skipped = {os.path.realpath(path) for path in outputs}
    unique = {}
    for text in given:
        for path, root in _files(text, skipped):
            unique.setdefault(os.path.abspath(path), (path, root))
    paths, roots = zip(*unique.values())
    return [Input(path, name) for path, name in zip(paths, unique_names(paths, roots))]


def _files(text: str, skipped: Set[str]) -> List[Tuple[Path, Path]]:
    """Return files, each with the folder that its name is relative to."""
    skipped = set(skipped)  # and the folders that were searched, because links may lead back

    def is_new(path: Path) -> bool:
        return os.path.realpath(path) not in skipped

    def kept(folder: str, names: List[str]) -> List[str]:
        return sorted(n for n in names if not n.startswith('.') and is_new(Path(folder, n)))

    path = Path(text if os.path.exists(text) else os.path.expanduser(text))
    matches = [path]
    if not path.exists():
        matches = map(Path, glob.glob(str(path), recursive=True))
        matches = [match for match in matches if all(map(is_new, (match, *match.parents)))]
    files = []
    for match in sorted(matches):
        if match.is_dir():
            for folder, folders, names in os.walk(match, onerror=_refuse, followlinks=True):
                skipped.add(os.path.realpath(folder))
                folders[:] = kept(folder, folders)
                files += [(Path(folder, name), match) for name in kept(folder, names)]
        else:
            files.append((match, match.parent))
    if not files:
        raise UsageError(
            f'input {text} not found or empty; pass images, folders, videos or a pattern (no '
            'URLs, cameras or stdin; for other sources, see model.stream in docs/inference.md)'
        )
    return files


def is_utf8(path: Union[str, Path]) -> bool:
    """Return False for a name with other bytes, on which OpenCV's readers of files crash."""
    return not any('\ud800' <= letter <= '\udfff' for letter in str(path))


def _refuse(error: OSError) -> NoReturn:
    raise UsageError(f'folder {error.filename} cannot be read: {error.strerror}') from error


def unique_names(
    paths: Sequence[Path], roots: Optional[Sequence[Path]] = None, suffix: bool = False
) -> List[str]:
    """Return short unique names of files, relative to `roots` or else to their common folder.

    `roots` has a folder above each file; by default, the one that it is in. Suffixes are kept with
    `suffix`, or if names differ only in them.
    """
    roots = roots or [path.parent for path in paths]
    names = [path.relative_to(root) for path, root in zip(paths, roots)]
    if len({name.with_suffix('') for name in names}) < len(names):
        absolute = [Path(os.path.abspath(path)) for path in paths]
        common = os.path.commonpath([path.parent for path in absolute])
        names = [path.relative_to(common) for path in absolute]
    stems = [name.with_suffix('') for name in names]
    unique = len(set(stems)) == len(stems)
    return [name.as_posix() for name in (stems if unique and not suffix else names)]


def read_image(path: str, size: Optional[Tuple[int, int]] = None) -> np.ndarray:
    """Read an image file as (H, W, 3) uint8, RGB, resized if height and width are given.

    Raises:
        UsageError: the file does not exist.
        UnreadableImage: it is not an image, or truncated.
    """
    if not os.path.exists(path):
        raise UsageError(f'image {path} not found')
    check_complete(path)
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)  # of any name, see is_utf8
    if image is None:
        raise UnreadableImage(f'{path} is not an image that OpenCV can read')
    if size is not None:
        image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_as(path: Union[str, Path], dataset: Any) -> np.ndarray:
    """Read an image as the network of a dataset sees it: (H, W, 3), uint8, BGR."""
    steps = getattr(getattr(dataset, 'pipeline', None), 'transforms', ())
    first = steps[0] if steps else None  # a loader of the user's own reads other files
    loader = next((step for step in steps if isinstance(step, LoadImageFromFile)), first)
    if loader is None or 'NDArray' in type(loader).__name__:  # which reads no files
        loader = LoadImageFromFile()
    # Loaders of change detection read a pair.
    return drawable(loader(dict(img_path=str(path), img_path2=str(path)))['img'])


def check_complete(path: str) -> None:
    """Raise UnreadableImage for incomplete images; OpenCV fills missing parts with grey."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # large images
        try:
            with Image.open(path) as image:
                image.draft(image.mode, (1, 1))  # JPEG: read the whole file, in less time
                image.load()
        except UnidentifiedImageError:
            # Of formats that Pillow lacks.
            if not (is_utf8(path) and cv2.haveImageReader(path)):
                raise UnreadableImage(f'{path} is not an image') from None
        except Image.DecompressionBombError:
            pass  # too large for Pillow
        except Exception as error:  # whatever a decoder raises
            raise UnreadableImage(f'{path} cannot be read: {first_line(error)}') from error


class Video:
    """Frames of a video, (H, W, 3) uint8, BGR; it can be iterated once.

    Attributes:
        length: number of frames according to the file; 0 if unknown.
        rate: frames per second; 25 if unknown or above :data:`MAX_RATE`.

    Raises:
        UnreadableImage: OpenCV cannot read the file.
    """

    def __init__(self, path: Path) -> None:
        if not is_utf8(path):
            raise UnreadableImage(f'{path}: OpenCV needs a name in UTF-8; rename the video')
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise UnreadableImage(f'{path} is not a video that OpenCV can read')
        self.length = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 0 < rate <= MAX_RATE else 25.0

    def __iter__(self) -> Iterator[np.ndarray]:
        return (frame for _, frame in iter(self._capture.read, (False, None)))
