"""Run detection or segmentation on images, folders and videos."""

import argparse
import contextlib
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, List, Optional, Sequence

import cv2
import numpy as np
from rich.console import Console
from rich.progress import Progress

from ..checkpoint import lock_folder
from ..engine.config import is_segmentor, load_config
from ..engine.devices import usable_device
from ..engine.display import progress_bar
from ..engine.signals import interrupted_by_termination
from ..errors import UsageError, counted
from ..inference.inferencer import Inferencer, Prediction, ahead, inference
from ..inference.inputs import Input, UnreadableImage, Video, find_inputs, is_utf8
from ..inference.outputs import (
    Outputs,
    coco_file,
    coco_ids,
    open_video,
    write_image,
    write_label_map,
)
from ..inference.overlay import DRAWN, draw
from .command import Parser, add_cfg_options, at_least, folder, fraction

FRAME_COUNT = cv2.CAP_PROP_FRAME_COUNT
SKIPPED = 3  # exit status if some inputs could not be read


def parse_args() -> argparse.Namespace:
    parser = Parser(
        description=__doc__,
        epilog=f'Exit status: 0, or {SKIPPED} if inputs could not be read and were skipped.',
    )
    add = parser.add_argument
    add('config', help='config file, or name of a shipped config')
    add('checkpoint', help='checkpoint file')
    add(
        'inputs', nargs='+', metavar='INPUT',
        help='images, videos, folders (searched recursively), or patterns such as "photos/*.jpg"',
    )  # fmt: skip
    add('--out-dir', type=folder, default=Path('outputs'), help='output folder (default: outputs)')
    add('--overwrite', action='store_true', help='overwrite files in --out-dir')
    add('--batch-size', type=at_least(1), default=1, help='images per batch (default: 1)')
    add('--device', type=usable_device, help='such as cpu or cuda:1 (default: GPU if available)')
    add(
        '--score-thr', type=fraction, default=0.3,
        help='score threshold for visualizations; the JSON has all detections (default: 0.3)',
    )  # fmt: skip
    add('--tta', action='store_true', help='test-time augmentation')
    add('--no-save-vis', action='store_true', help='do not save visualizations')
    add('--no-save-pred', action='store_true', help='do not save JSON and label maps')
    add_cfg_options(parser, 'model.test_cfg.rcnn.nms.iou_threshold=0.6')
    args = parser.parse_args()
    if args.no_save_vis and args.no_save_pred:
        parser.error('--no-save-vis and --no-save-pred together leave nothing to do')
    return args


@dataclass
class Run:
    """Inference on all inputs, with its outputs."""

    model: Inferencer
    outputs: Outputs
    args: argparse.Namespace
    bar: Progress
    done: int = 0  # images and frames
    skipped: List[str] = field(default_factory=list)  # one message per unreadable input
    longer: List[str] = field(default_factory=list)  # animations and files of several pages
    cut: List[str] = field(default_factory=list)  # videos that end early

    def __call__(self, inputs: Sequence[Input]) -> None:
        """Process images first, then videos."""
        first = int(self.model.reduces_zero_label)
        label_values = list(range(first, first + len(self.model.classes)))
        self.ids = label_values if self.model.is_segmentor else coco_ids(self.model.classes)
        categories = [
            dict(id=number, name=name, color=list(colour))
            for number, name, colour in zip(self.ids, self.model.classes, self.model.palette)
        ]
        images = {str(source.path): source for source in inputs if not source.is_video}
        self.task = self.bar.add_task('inference', total=len(images))

        def write(drawn: np.ndarray, image: str) -> None:
            write_image(drawn, self.outputs.vis(images[image]))

        file = coco_file(self.outputs.json, categories)
        with file if self.outputs.save_pred else contextlib.nullcontext() as self.add:
            for prediction in self._predicted(images, write, self._skip):
                source = images[prediction.source]
                self._keep(source, prediction)
                several = source.path.suffix.lower() in ('.avif', '.gif', '.webp', '.tif', '.tiff')
                if several and is_utf8(source.path) and cv2.imcount(prediction.source) > 1:
                    self.longer.append(prediction.source)
            for source in inputs:
                if source.is_video:
                    try:
                        self._video(source)
                    except UnreadableImage as error:
                        self._skip(source, error)

    def _video(self, source: Input) -> None:
        video, before, path = Video(source.path), self.done, self.outputs.vis(source)
        self.bar.update(self.task, total=self.bar.tasks[0].total + video.length)
        if self.model.is_segmentor and self.outputs.save_pred:  # of a longer video
            shutil.rmtree(self.outputs.label_map(source), ignore_errors=True)
        writer: Optional[cv2.VideoWriter] = None

        def write(drawn: np.ndarray, _: Any) -> None:
            nonlocal writer
            if writer is None:
                writer = open_video(path, video.rate, drawn.shape[1::-1])
            writer.write(drawn)

        try:
            with contextlib.closing(self._predicted(video, write)) as predictions:
                for number, prediction in enumerate(predictions):
                    self._keep(source, prediction, number)
        finally:
            if writer is not None:
                writer.release()
        frames = self.done - before
        if writer is not None and cv2.VideoCapture(str(path)).get(FRAME_COUNT) < frames:
            raise UsageError(f'{path} could not be written in full; check that the disk has space')
        if not frames:
            raise UnreadableImage(f'{source.path} has no frame that can be read')
        if frames < video.length - video.rate:  # some files count by the length of their sound
            self.cut.append(f'{source.path}: {frames} of {video.length}')

    def _skip(self, source: Any, error: UnreadableImage) -> None:
        self.skipped.append(str(error))
        self.bar.advance(self.task)
        self.bar.console.print(f'skipped: {error}', markup=False, soft_wrap=True)

    def _predicted(
        self,
        images: Iterable[Any],
        write: Callable[[np.ndarray, Any], None],
        on_unreadable: Optional[Callable[[Any, UnreadableImage], None]] = None,
    ) -> Iterator[Prediction]:
        """Yield predictions; a thread visualizes one while the network computes the next."""
        predictions = self.model.stream(images, self.args.batch_size, on_unreadable)
        style = self.model.classes, self.model.palette, self.args.score_thr

        def visualize(prediction: Prediction) -> None:
            if not DRAWN & set(prediction.sample.keys()):
                predicted = [key for key in prediction.sample.keys() if key.startswith('pred')]
                raise UsageError(
                    f'{type(self.model.model).__name__} predicts '
                    f'{", ".join(predicted)}, not boxes or label maps; call it '
                    'from Python, see docs/inference.md'
                )
            if self.outputs.save_vis:
                write(draw(prediction.image, prediction.sample, *style), prediction.source)

        for prediction, written in ahead(visualize, predictions, 1):
            written.result()
            yield prediction

    def _keep(self, source: Input, prediction: Prediction, frame: Optional[int] = None) -> None:
        """Save the prediction for an image or frame."""
        height, width = prediction.image.shape[:2]
        entry = dict(file_name=source.path.as_posix(), width=width, height=height)
        if frame is not None:
            entry['frame'] = frame
        if self.outputs.save_pred:
            if self.model.is_segmentor:
                path = self.outputs.label_map(source, frame)
                write_label_map(prediction.sample, self.ids, path)
                entry['label_map'] = path.relative_to(self.outputs.folder).as_posix()
            self.add(entry, prediction.sample)
        self.done += 1
        self.bar.advance(self.task)


def main() -> None:
    args = parse_args()
    outputs = Outputs(args.out_dir, not args.no_save_vis, not args.no_save_pred)
    inputs = find_inputs(args.inputs, outputs.all)
    cfg = load_config(args.config, args.cfg_options)
    outputs.check(inputs, is_segmentor(cfg), args.overwrite)
    model = inference(cfg, args.checkpoint, args.device, args.tta)
    args.out_dir.mkdir(parents=True, exist_ok=True)
    if outputs.save_pred:  # its file is written at the end
        lock_folder(args.out_dir, '--out-dir')
    console = Console()
    begin = time.perf_counter()
    interrupted = ''
    with progress_bar(console, 'img') as bar, interrupted_by_termination():
        run = Run(model, outputs, args, bar)
        try:
            run(inputs)
        except KeyboardInterrupt:
            interrupted = 'interrupted; '
    seconds = time.perf_counter() - begin
    lines = [
        f'{interrupted}{counted(run.done, "image")} in {seconds:.1f} s '
        f'({run.done / seconds:.1f} img/s); results in {args.out_dir}'
    ]
    if run.longer:
        lines += ['only the first frame or page was used; convert to a video or images:']
        lines += run.longer
    if run.cut:
        lines += ['frames of videos that were read; the file says how many it has:', *run.cut]
    if run.skipped:
        lines += [f'{len(run.skipped)} of {len(inputs)} inputs were skipped:', *run.skipped]
    console.print('\n'.join(lines), markup=False, soft_wrap=True)
    if interrupted:
        raise KeyboardInterrupt
    if run.skipped:
        sys.exit(SKIPPED)
