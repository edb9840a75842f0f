"""Detect or segment in images, folders of them, and videos: pictures, COCO JSON, label maps."""

import argparse
import os.path as osp
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence

from rich.console import Console
from rich.progress import Progress

from ..engine.config import load_config
from ..engine.display import progress_bar
from ..engine.errors import UsageError
from ..inference import Inferencer, inference
from ..inference.images import UnreadableImage
from ..inference.inferencer import Prediction, is_segmentor
from ..inference.inputs import Input, Video, announced_frames, find_inputs
from ..inference.outputs import Results, VideoPictures, coco_ids, write_label_map, write_picture
from ..inference.overlay import draw
from .command import Parser, add_cfg_options, at_least, device, folder, fraction

SKIPPED = 3
"""Exit status where some inputs could not be read."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def parse_args() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = Parser(
        description=__doc__,
        epilog=f'Exit status: 0, or {SKIPPED} where inputs could not be read and were skipped.',
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        'inputs',
        nargs='+',
        metavar='INPUT',
        help='images, videos, folders with all below them, or patterns such as "photos/*.jpg"',
    )
    parser.add_argument(
        '--out-dir', type=folder, default=Path('outputs'), help='(default: outputs)'
    )
    parser.add_argument('--overwrite', action='store_true', help='replace files in --out-dir')
    parser.add_argument('--batch-size', type=at_least(1), default=1, help='(default: 1)')
    parser.add_argument(
        '--device',
        type=device,
        help='such as cpu or cuda:1 (default: an accelerator where there is one)',
    )
    parser.add_argument(
        '--score-thr',
        type=fraction,
        default=0.3,
        help='detections below it are left out of the pictures; the JSON has all (default: 0.3)',
    )
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    parser.add_argument('--no-save-vis', action='store_true', help='write no pictures')
    parser.add_argument(
        '--no-save-pred', action='store_true', help='write neither JSON nor label maps'
    )
    add_cfg_options(parser, 'model.test_cfg.rcnn.nms.iou_threshold=0.6')
    args = parser.parse_args()
    if args.no_save_vis and args.no_save_pred:
        parser.error('--no-save-vis and --no-save-pred together leave nothing to do')
    return args


FRAMES = '.frames'
"""Suffix of the folders of a video's label maps."""


class Outputs:
    """The files of a run, by what they are made from.

    Args:
        args: of the command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.folder = args.out_dir
        self.pictures = not args.no_save_vis
        self.predictions = not args.no_save_pred
        self.score_thr = args.score_thr

    @property
    def own(self) -> List[Path]:
        """All that a run leaves in its folder."""
        return [self.folder / 'vis', self.folder / 'preds', self.json]

    @property
    def json(self) -> Path:
        """The file of results."""
        return self.folder / 'predictions.json'

    def picture(self, given: Input) -> Path:
        """The picture, or the video, of an input."""
        return self.folder / 'vis' / (given.name + ('.mp4' if given.is_video else '.jpg'))

    def label_map(self, given: Input, frame: str = '') -> Path:
        """The label map of an image or of a frame; without a frame the folder of a video's."""
        if given.is_video:
            return self.folder / 'preds' / f'{given.name}{FRAMES}' / frame
        return self.folder / 'preds' / f'{given.name}.png'

    def check(self, inputs: Sequence[Input], label_maps: bool, overwrite: bool) -> None:
        """Make sure that no file is lost; `label_maps` says whether there will be some.

        Raises:
            UsageError: an output would replace an input or a folder, or without `overwrite` any
                file.
        """
        read = {osp.realpath(given.path) for given in inputs}
        for path in self._planned(inputs, label_maps):
            if osp.realpath(path) in read:
                raise UsageError(f'{path} is an input; choose another --out-dir')
            if path.is_dir() and path.suffix != FRAMES:
                raise UsageError(
                    f'{path} is a folder, and a file is to be written there; choose another '
                    '--out-dir'
                )
            if path.exists() and not overwrite:
                raise UsageError(
                    f'{path} exists; choose another --out-dir, or replace it with --overwrite'
                )

    def _planned(self, inputs: Sequence[Input], label_maps: bool) -> List[Path]:
        paths = [self.picture(given) for given in inputs] if self.pictures else []
        if self.predictions:
            paths.append(self.json)
            if label_maps:
                paths += [self.label_map(given) for given in inputs]
        return paths


class Work:
    """Takes every input through the network and keeps what comes of it.

    Args:
        model: the network.
        outputs: where that goes.
        batch_size: images that go through the network at once.
        bar: shows how far it is.
    """

    def __init__(
        self, model: Inferencer, outputs: Outputs, batch_size: int, bar: Progress
    ) -> None:
        self.model = model
        self.outputs = outputs
        self.batch_size = batch_size
        self.bar = bar
        self.skipped: List[str] = []
        self.done = 0
        if model.is_segmentor:
            first = int(model.reduces_zero_label)
            self.ids = list(range(first, first + len(model.classes)))
        else:
            self.ids = coco_ids(model.classes)

    def run(self, inputs: Sequence[Input]) -> None:
        """Take images first, then videos."""
        images = [given for given in inputs if not given.is_video]
        videos = {given: announced_frames(given.path) for given in inputs if given.is_video}
        self.task = self.bar.add_task('inference', total=len(images) + sum(videos.values()))
        if not self.outputs.predictions:
            self._run(images, videos, lambda image, sample: None)
            return
        categories = [
            dict(id=number, name=name, color=list(colour))
            for number, name, colour in zip(self.ids, self.model.classes, self.model.palette)
        ]
        with Results(self.outputs.json, categories) as results:
            self._run(images, videos, results.add)

    def _run(self, images: List[Input], videos: Dict[Input, int], add: Callable) -> None:
        by_path = {str(given.path): given for given in images}
        for found in self._found(by_path, self._skip):
            self._image(by_path[str(found.source)], found, add)
        for given, announced in videos.items():
            try:
                self._video(given, announced, add)
            except UnreadableImage as error:
                self._skip(given.path, error, announced)

    def _found(self, images: Iterable, on_unreadable: Optional[Callable] = None) -> Iterator:
        for found in self.model.stream(images, self.batch_size, on_unreadable):
            if not {'pred_instances', 'pred_sem_seg'} & set(found.sample.keys()):
                given = ', '.join(found.sample.keys())
                raise UsageError(
                    f'{type(self.model.model).__name__} predicts neither boxes nor label maps but '
                    f'{given}; call it from Python as docs/inference.md says'
                )
            yield found

    def _skip(self, source: Any, error: UnreadableImage, counted: int = 1) -> None:
        """Name an input that is left out; `counted` is what the total has for it."""
        self.skipped.append(str(error))
        self.bar.console.print(f'skipped: {error}', markup=False, soft_wrap=True)
        self.bar.advance(self.task, counted)

    def _image(self, given: Input, found: Prediction, add: Callable) -> None:
        fields = {}
        if self.outputs.pictures:
            write_picture(self._drawn(found), self.outputs.picture(given))
        if self.outputs.predictions and self.model.is_segmentor:
            fields = self._label_map(found, self.outputs.label_map(given))
        self._keep(given, found, add, fields)

    def _video(self, given: Input, announced: int, add: Callable) -> None:
        video = Video(given.path)
        before = self.done
        with VideoPictures(self.outputs.picture(given), video.rate) as pictures:
            for number, found in enumerate(self._found(video)):
                fields = dict(frame=number)
                if self.outputs.pictures:
                    pictures.add(self._drawn(found))
                if self.outputs.predictions and self.model.is_segmentor:
                    path = self.outputs.label_map(given, f'{number:06d}.png')
                    fields.update(self._label_map(found, path))
                self._keep(given, found, add, fields)
        frames = self.done - before
        if not frames:
            raise UnreadableImage(f'{given.path} has no frame that can be read')
        self.bar.update(self.task, total=self.bar.tasks[0].total + frames - announced)

    def _drawn(self, found: Prediction) -> Any:
        classes, palette = self.model.classes, self.model.palette
        return draw(found.image, found.sample, classes, palette, self.outputs.score_thr)

    def _label_map(self, found: Prediction, path: Path) -> Dict[str, Any]:
        write_label_map(found.sample, self.ids, path)
        return dict(label_map=path.relative_to(self.outputs.folder).as_posix())

    def _keep(
        self, given: Input, found: Prediction, add: Callable, fields: Dict[str, Any]
    ) -> None:
        height, width = found.image.shape[:2]
        entry = dict(file_name=given.path.as_posix(), width=width, height=height, **fields)
        add(entry, found.sample)
        self.done += 1
        self.bar.advance(self.task)


def main() -> None:
    """Infer."""
    args = parse_args()
    outputs = Outputs(args)
    inputs = find_inputs(args.inputs, args.out_dir, outputs.own)
    cfg = load_config(args.config, args.cfg_options)
    outputs.check(inputs, is_segmentor(cfg), args.overwrite)
    model = inference(cfg, args.checkpoint, args.device, args.tta)
    args.out_dir.mkdir(parents=True, exist_ok=True)
    console = Console()
    begin = time.perf_counter()
    status = 0
    with progress_bar(console, 'img') as bar:
        work = Work(model, outputs, args.batch_size, bar)
        try:
            work.run(inputs)
        except KeyboardInterrupt:
            status = INTERRUPTED
    seconds = time.perf_counter() - begin
    lines = [
        f'{"interrupted; " if status else ""}{work.done} images and frames in {seconds:.0f} s '
        f'({work.done / seconds:.1f} img/s): see {args.out_dir}'
    ]
    if work.skipped:
        lines += [f'{len(work.skipped)} of {len(inputs)} inputs were skipped:', *work.skipped]
    console.print('\n'.join(lines), markup=False, soft_wrap=True)
    if status or work.skipped:
        sys.exit(status or SKIPPED)
