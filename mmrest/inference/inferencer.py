"""Inference in Python: images in, mmdet or mmseg data samples out."""

import copy
import inspect
import os
import re
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from numbers import Integral
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, List, NamedTuple, Optional, Tuple, Union

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.device import get_device
from mmengine.fileio import list_from_file
from mmengine.model import BaseTTAModel
from mmengine.registry import DATASETS, MODELS, TRANSFORMS
from mmengine.runner.amp import autocast
from mmengine.structures import BaseDataElement

from ..datasets.palette import colours
from ..engine.building import check_model, find_type, image_channels
from ..engine.config import (
    default_scope,
    dicts,
    heads,
    is_classifier,
    is_segmentor,
    load_config,
    merge_options,
    package_of,
    type_name,
    use_tta,
    without_sync_bn,
)
from ..engine.devices import usable_device
from ..engine.weight_hooks import dataset_meta, load_full_weights
from ..errors import UsageError, explained, first_line, some
from .inputs import UnreadableImage, check_complete
from .overlay import drawable

_BUILDING = threading.Lock()
"""Held while a config is read and a network is built, because mmengine's state is global."""

Image = Union[str, Path, np.ndarray]
"""Path of a file, or (H, W, C) uint8: BGR, or as many channels as the network expects."""

Device = Union[str, torch.device, None]
"""Such as ``cuda:1``; None is a GPU if available."""


class Prediction(NamedTuple):
    """Prediction for one image.

    Attributes:
        source: the image as passed.
        image: its pixels to draw on, (H, W, 3) uint8, BGR; see :func:`.overlay.drawable`.
        sample: a DetDataSample or SegDataSample, on the CPU, at the size of `image`.
    """

    source: Image
    image: np.ndarray
    sample: BaseDataElement


class Inferencer:
    """Trained network with the test pipeline of its config; see :func:`inference`.

    For the same batches, results are bit-identical to ``tools/test.py``.

    Attributes:
        cfg: the config.
        model: the network, in evaluation mode.
        classes: class names, in label order.
        palette: colour of each class, as (red, green, blue) from 0 to 255.
        is_segmentor: True if the network predicts label maps instead of boxes and masks.
        reduces_zero_label: True if, in the dataset's label maps, 0 means unlabelled and 1 is the
            first class.
    """

    def __init__(
        self, cfg: Config, checkpoint: str, device: Device = None, tta: bool = False
    ) -> None:
        if is_classifier(cfg):
            raise UsageError(
                f'{cfg.filename} is the config of a classifier, but inference supports only '
                'detectors and segmentors; use ImageClassificationInferencer of mmpretrain, or '
                'mmrest test --show-dir DIR'
            )
        self.cfg = cfg = copy.deepcopy(cfg)
        device = usable_device(device or get_device())
        without_sync_bn(cfg)
        if cfg.get('data_preprocessor'):
            cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
        if tta:
            use_tta(cfg)
        with _BUILDING, default_scope(cfg):
            dataset, metainfo = tested_dataset(cfg)
            check_model(cfg)
            model = MODELS.build(cfg.model)
            network = model.module if isinstance(model, BaseTTAModel) else model
            meta = dataset_meta(load_full_weights(network, checkpoint)[0])
            with explained('the test pipeline cannot be built'):
                self._loader, self._pipeline = _pipeline(cfg, dataset.get('pipeline'))
        self.classes, palette = classes_of(cfg, meta, metainfo)
        stated = metainfo['reduce_zero_label']
        self.reduces_zero_label = bool(meta.get('reduce_zero_label') if stated is None else stated)
        self.is_segmentor = is_segmentor(cfg)
        if len(self.classes) == getattr(network, 'out_channels', None) == 1:
            self.classes.insert(0, 'background')  # which a segmentor with one channel predicts
            palette = palette and [(0, 0, 0), *palette]
        self.palette = colours(palette, len(self.classes))
        self.model = model.to(device)
        self.model.eval()  # returns None for distillation of mmdet
        self._channels = image_channels(network)
        self._fp16 = bool((cfg.get('test_cfg') or {}).get('fp16'))

    def __call__(
        self, images: Union[Image, Iterable[Image]], batch_size: int = 1
    ) -> Union[BaseDataElement, List[BaseDataElement]]:
        """Predict on one or more images.

        Args:
            images: one image, or several.
            batch_size: images per forward pass. Detectors pad images to the largest one in the
                batch, which changes the last digits. Segmentors only batch images of the same
                size.

        Returns:
            A data sample for a single image, or a list for several, on the CPU and at the size of
            the image:

            - detectors: ``pred_instances`` with ``bboxes`` (N, 4) float32, in pixels as left, top,
              right, bottom; ``scores`` (N,) float32; ``labels`` (N,) int64, indices of `classes`;
              and ``masks`` (N, H, W) bool if the network predicts them;
            - segmentors: ``pred_sem_seg.data`` (1, H, W) int64, indices of `classes`. Per-class
              scores are large, so only :meth:`stream` returns them.

        Raises:
            UnreadableImage: a file is damaged, is not an image, or is not supported by the
                config's pipeline; the message names it.
            UsageError: memory runs out.
            ValueError: an image is neither a path nor an array of the right shape and dtype, or
                `batch_size` is not positive.
        """
        single = isinstance(images, (str, bytes, np.ndarray, torch.Tensor))
        if single or not isinstance(images, Iterable):
            return self([images])[0]
        samples = []
        for prediction in self.stream(images, batch_size):
            prediction.sample.pop('seg_logits', None)
            samples.append(prediction.sample)
        return samples

    def stream(
        self,
        images: Iterable[Image],
        batch_size: int = 1,
        on_unreadable: Optional[Callable[[Image, UnreadableImage], None]] = None,
    ) -> Iterator[Prediction]:
        """Predict lazily, with at most two batches in memory.

        While the network predicts one batch, a thread reads and prepares the next.

        Args:
            images: any number of images.
            batch_size: see :meth:`__call__`.
            on_unreadable: called with an unreadable image and the error; the image is skipped. By
                default, the error is raised.

        Yields:
            Predictions in image order, with all outputs of the network.

        Raises:
            UnreadableImage, UsageError, ValueError: see :meth:`__call__`.
        """
        if not (isinstance(batch_size, Integral) and batch_size > 0):
            raise ValueError(f'batch_size must be a positive integer, got {batch_size!r}')
        batch: List[Tuple[Image, np.ndarray, dict]] = []
        for image, prepared in ahead(self._prepare, images, batch_size):
            try:
                pixels, data = prepared.result()
            except UnreadableImage as error:
                if on_unreadable is None:
                    raise
                on_unreadable(image, error)
                continue
            # mmdet pads images to the size of the largest one in a batch; mmseg refuses them.
            other = self.is_segmentor and batch and _shapes(data) != _shapes(batch[0][2])
            if len(batch) == batch_size or other:
                yield from self._predict(batch)
                batch = []
            batch.append((image, pixels, data))
        if batch:
            yield from self._predict(batch)

    def _prepare(self, image: Image) -> Tuple[np.ndarray, dict]:
        """Return the pixels of an image, and the output of the pipeline."""
        if isinstance(image, (str, os.PathLike)):
            name = str(image) if os.path.exists(image) else os.path.expanduser(image)
            given = dict(img_path=name, img_id=0)  # mmdet < 3.2 needs a number
            check_complete(name)
        else:
            shape, dtype = getattr(image, 'shape', ()), getattr(image, 'dtype', None)
            if dtype != np.uint8 or len(shape) != 3 or shape[2] != self._channels or 0 in shape:
                kind = f'{tuple(shape)} of {dtype}' if shape else type(image).__name__
                raise ValueError(
                    f'an image must be a path, or an array (H, W, {self._channels}) of uint8, got '
                    f'{kind}'
                )
            name, given = f'an array {shape}', dict(img=image, img_id=0)
        step = 'read'
        try:
            results = self._loader(given)
            pixels = drawable(results['img'])
            step = 'prepared'
            data = self._pipeline(results)
        except Exception as error:  # whatever a decoder or transform raises
            raise UnreadableImage(f'{name} cannot be {step}: {first_line(error)}') from error
        channels = _shapes(data)[0][0]
        if channels != self._channels:
            raise UnreadableImage(
                f'{name} has {channels} channels, but the network takes {self._channels}'
            )
        return pixels, data

    def _predict(self, batch: List[Tuple[Image, np.ndarray, dict]]) -> Iterator[Prediction]:
        data = pseudo_collate([data for _, _, data in batch])
        try:
            with torch.no_grad(), autocast(enabled=self._fp16):
                samples = self.model.test_step(data)
        except (RuntimeError, MemoryError) as error:  # torch has a type for GPUs only
            if not re.search('MemoryError|out of memory|alloc', first_line(error)):
                raise
            sizes = some('{1} x {0}'.format(*pixels.shape) for _, pixels, _ in batch)
            raise UsageError(
                f'out of memory for images of {sizes} pixels; pass smaller images or batches, '
                'or set a smaller scale of Resize in the test pipeline'
            ) from error
        for (source, pixels, _), sample in zip(batch, samples):
            sample = sample.cpu()
            if 'pred_sem_seg' in sample:  # floats for binary segmentors
                sample.pred_sem_seg.data = sample.pred_sem_seg.data.long()
            yield Prediction(source, pixels, sample)


def inference(
    config: Union[str, Path, Config],
    checkpoint: Union[str, Path],
    device: Device = None,
    tta: bool = False,
    cfg_options: Optional[dict] = None,
) -> Inferencer:
    """Set up a trained detector or segmentor.

    Nothing is downloaded. The checkpoint is loaded with the weights-only unpickler; see
    :func:`mmrest.checkpoint.read_checkpoint`.

    Args:
        config: mmrest, mmdet or mmseg config, as a file, a name or an mmengine ``Config``.
        checkpoint: weights of the full network, as saved by training.
        device: such as 'cpu' or 'cuda:1' (default: GPU if available).
        tta: use test-time augmentation with the config's ``tta_pipeline`` and ``tta_model``.
        cfg_options: config overrides, by dotted key.

    Returns:
        An object to call with images.

    Raises:
        UsageError: the config, an option or the device is invalid.
        CheckpointError: the checkpoint cannot be read or does not cover the network.

    Example:
        >>> model = inference('demo_maskrcnn_rmt_t', 'work_dirs/demo/iter_340.pth')
        >>> sample = model('image.jpg')
        >>> sample.pred_instances.bboxes
    """
    if isinstance(config, Config):
        config = copy.deepcopy(config)
        merge_options(config, cfg_options)
    else:
        with _BUILDING:
            config = load_config(str(config), cfg_options)
    return Inferencer(config, str(checkpoint), device, tta)


def ahead(
    function: Callable[[Any], Any], items: Iterable[Any], count: int
) -> Iterator[Tuple[Any, Future]]:
    """Yield items with futures of a function, which a thread calls `count` items ahead."""
    started = deque()
    with ThreadPoolExecutor(1) as thread:
        try:
            for item in items:
                started.append((item, thread.submit(function, item)))
                if len(started) > count:
                    yield started.popleft()
        except Exception:  # a damaged video; yield the frames before the error
            yield from started
            raise
        yield from started


def _shapes(data: dict) -> List[torch.Size]:
    """Return the shapes of the inputs; test-time augmentation has several per image."""
    inputs = data['inputs']
    return [i.shape for i in (inputs if isinstance(inputs, list) else [inputs])]


def tested_dataset(cfg: Config) -> Tuple[dict, dict]:
    """Return the config of the test dataset, also inside wrappers, and its metainfo.

    ``reduce_zero_label`` is None if neither the config nor a parameter of its class says it.
    """
    parts = (part for _, part in dicts(cfg.get('test_dataloader'), 'test_dataloader'))
    dataset = next((part for part in parts if part.get('pipeline')), {})
    with default_scope(cfg):
        kind = find_type(DATASETS, dataset.get('type'))
    metainfo = dict(getattr(kind, 'METAINFO', None) or {}, **(dataset.get('metainfo') or {}))
    classes = metainfo.get('classes')
    if isinstance(classes, str):
        if not os.path.isfile(classes):
            raise UsageError(
                f'test_dataloader.dataset.metainfo.classes is the string {classes!r}, neither a '
                'list of names nor a file with one per line'
            )
        metainfo['classes'] = list_from_file(classes)
    # Not from the class: in Python 3.8, Generic.__new__ hides the arguments of datasets.
    parameters = inspect.signature(kind.__init__).parameters if kind else {}
    default = getattr(parameters.get('reduce_zero_label'), 'default', None)
    metainfo['reduce_zero_label'] = dataset.get('reduce_zero_label', default)
    return dataset, metainfo


def _pipeline(cfg: Config, steps: Optional[List[dict]]) -> Tuple[Callable, Compose]:
    """Return the loader of files and arrays, and the transforms after it."""
    if not steps:
        raise UsageError(f'{cfg.filename} has no test_dataloader.dataset.pipeline to read images')
    first, *others = _without_annotations(steps)
    if type_name(first) != 'LoadImageFromFile':
        raise UsageError(
            f'the test pipeline starts with {type_name(first)}, but inference needs '
            'LoadImageFromFile'
        )
    loader = f'{package_of(cfg)}.InferencerLoader'
    return TRANSFORMS.build(dict(first, type=loader)), Compose(others)


def _without_annotations(steps: list) -> list:
    """Return transforms without those of annotations, also in groups of transforms."""
    kept = []
    for step in steps:
        if isinstance(step, list):
            kept += [group for group in [_without_annotations(step)] if group]
        elif 'Annotation' not in type_name(step):
            inner = step.get('transforms')
            more = dict(transforms=_without_annotations(inner)) if isinstance(inner, list) else {}
            kept.append({**step, **more})
    return kept


def classes_of(cfg: Config, *sources: dict) -> Tuple[List[str], Any]:
    """Return names and colours of the classes that the heads predict, from the first source."""
    sources = [source for source in sources if source.get('classes')]
    counts = {count for _, count in heads(cfg)}
    fitting = [source for source in sources if not counts or len(source['classes']) in counts]
    for source in sources:  # of panoptic segmentors, some of whose heads predict things alone
        if source.get('stuff_classes') and len(source['classes']) > max(counts, default=0):
            fitting.append(source)
    if fitting:
        return list(fitting[0]['classes']), fitting[0].get('palette')
    head, count = next(heads(cfg), ('the model', 0))
    counts = ' and '.join(str(len(source['classes'])) for source in sources) or 'no'
    raise UsageError(
        f'{head}.num_classes is {count}, but checkpoint and config name {counts} classes; set '
        'test_dataloader.dataset.metainfo.classes'
    )
