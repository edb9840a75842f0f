"""Inference from Python: images in, data samples of mmdet and mmseg out."""

import copy
import inspect
import os
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Tuple,
    Union,
)

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.device import get_device
from mmengine.fileio import list_from_file
from mmengine.model import BaseTTAModel
from mmengine.registry import DATASETS, MODELS, TRANSFORMS, DefaultScope
from mmengine.runner.amp import autocast
from mmengine.structures import BaseDataElement
from torch import nn

from ..engine.building import check_model, find_type
from ..engine.compat import load_guarded
from ..engine.config import (
    dicts,
    first_line,
    heads,
    is_classifier,
    load_config,
    type_name,
    without_sync_bn,
)
from ..engine.devices import usable_device
from ..engine.display import colours
from ..engine.errors import UsageError
from ..engine.tta import use_tta
from ..engine.weights import StrictWeightsHook
from .images import UnreadableImage, check_whole

Image = Union[str, Path, np.ndarray]
"""Path of a file, or (H, W, 3) uint8 with channels in the order blue, green, red."""


class Prediction(NamedTuple):
    """What is predicted for an image.

    Attributes:
        source: the image as it was given.
        image: its pixels as the network's pipeline reads them, (H, W, 3) uint8, BGR.
        sample: a DetDataSample or SegDataSample, on the CPU, at the size of `image`.
    """

    source: Image
    image: np.ndarray
    sample: BaseDataElement


class Loaded(NamedTuple):
    """An image on its way to the network.

    Attributes:
        source: the image as it was given.
        image: its pixels, as in :class:`Prediction`.
        data: what the pipeline makes of it: ``inputs`` and ``data_samples``.
    """

    source: Image
    image: np.ndarray
    data: Dict[str, Any]

    @property
    def shapes(self) -> List[Tuple[int, ...]]:
        """Those of its inputs, of which test-time augmentation makes several."""
        inputs = self.data['inputs']
        return [tuple(i.shape) for i in (inputs if isinstance(inputs, list) else [inputs])]


class Inferencer:
    """A trained network with the test pipeline of its config; see :func:`inference`.

    It computes what ``tools/test.py`` computes, to the last digit where the batches are the same.

    Attributes:
        cfg: its config.
        model: the network, in evaluation mode.
        classes: name of every class, in the order of the labels.
        palette: their colours, each (red, green, blue) of 0 to 255.
        is_segmentor: whether it gives label maps, rather than boxes and masks.
        reduces_zero_label: whether 0 is no class in the label maps of its data set, whose first
            class is 1 then.
    """

    def __init__(
        self,
        cfg: Config,
        checkpoint: str,
        device: Union[str, torch.device, None] = None,
        tta: bool = False,
    ) -> None:
        if is_classifier(cfg):
            raise UsageError(
                f'{cfg.filename} is the config of a classifier, where inference takes detectors '
                'and segmentors; tools/test.py --show-dir DIR draws what a classifier predicts'
            )
        cfg = copy.deepcopy(cfg)
        self.cfg = cfg
        self._device = usable_device(device or get_device())
        dataset = _test_data(cfg)
        without_sync_bn(cfg)
        if cfg.get('data_preprocessor'):
            cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
        counts = {count for _, count in heads(cfg)}
        if tta:
            use_tta(cfg)
            dataset = cfg.test_dataloader.dataset
        check_model(cfg)
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmengine'):
            model = MODELS.build(cfg.model)
            meta = _load(model, checkpoint)
            self._loader, self._pipeline = _pipeline(cfg, dataset.pipeline)
            self.classes, palette = _classes(cfg, dataset, meta, counts)
            self.reduces_zero_label = _reduces_zero_label(dataset)
        self.palette = colours(palette, len(self.classes))
        self.model = model.to(self._device).eval()
        self.is_segmentor = is_segmentor(cfg)
        self._fp16 = bool((cfg.get('test_cfg') or {}).get('fp16'))

    def __call__(
        self, images: Union[Image, Iterable[Image]], batch_size: int = 1
    ) -> Union[BaseDataElement, List[BaseDataElement]]:
        """Predict.

        Args:
            images: one image, or several.
            batch_size: how many go through the network at once. Images of different sizes are
                padded to that of the largest one in a detector, which changes the last digits, and
                are not put into one batch in a segmentor.

        Returns:
            A data sample for one image, else a list of them, on the CPU and at the size of the
            image:

            - of a detector ``pred_instances`` with ``bboxes`` (N, 4) float32, in pixels as left,
              top, right, bottom; ``scores`` (N,) float32; ``labels`` (N,) int64, indices of
              `classes`; and ``masks`` (N, H, W) bool where the network predicts them;
            - of a segmentor ``pred_sem_seg.data`` (1, H, W) int64, indices of `classes`. Scores of
              every class, which take much memory, are those of :meth:`stream` alone.

        Raises:
            UnreadableImage: a file is not an image or damaged, or the config's pipeline cannot
                take an image; the message names it.
            ValueError: an array has another shape or type.
        """
        if isinstance(images, (str, Path, np.ndarray)):
            return self([images])[0]
        samples = []
        for prediction in self.stream(images, batch_size):
            if 'seg_logits' in prediction.sample:
                del prediction.sample.seg_logits
            samples.append(prediction.sample)
        return samples

    def stream(
        self,
        images: Iterable[Image],
        batch_size: int = 1,
        on_unreadable: Optional[Callable[[Image, UnreadableImage], None]] = None,
    ) -> Iterator[Prediction]:
        """Predict one image after the other; no more than a batch is held in memory.

        Args:
            images: any number of them.
            batch_size: as for calling the object.
            on_unreadable: called with an image that cannot be read or prepared and the reason; it
                is then left out. Without it the error is raised.

        Yields:
            Predictions in the order of the images; the samples hold all that the network gives.

        Raises:
            UnreadableImage, ValueError: as for calling the object.
        """
        batch: List[Loaded] = []
        for image in images:
            try:
                loaded = self._load(image)
            except UnreadableImage as error:
                if on_unreadable is None:
                    raise
                on_unreadable(image, error)
                continue
            # mmdet pads images to the size of the largest one in a batch, mmseg refuses them.
            alike = not self.is_segmentor or not batch or loaded.shapes == batch[0].shapes
            if len(batch) == batch_size or not alike:
                yield from self._predict(batch)
                batch = []
            batch.append(loaded)
        yield from self._predict(batch)

    def _load(self, image: Image) -> Loaded:
        if isinstance(image, np.ndarray):
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
                raise ValueError(
                    f'an image is an array (H, W, 3) of uint8, got {image.shape} of {image.dtype}'
                )
            path = f'an array {image.shape}'
            results = self._loader(dict(img=image))
        else:
            path = _existing(image)
            check_whole(path)
            try:
                results = self._loader(dict(img_path=path))
            except Exception as error:  # whatever a decoder raises
                raise UnreadableImage(f'{path} cannot be read: {first_line(error)}') from error
        pixels = np.asarray(results['img']).astype(np.uint8, copy=False)
        try:
            data = self._pipeline(results)
        except Exception as error:  # whatever a transform raises, for instance of a narrow image
            raise UnreadableImage(f'{path} cannot be prepared: {first_line(error)}') from error
        return Loaded(image, pixels, data)

    def _predict(self, batch: List[Loaded]) -> List[Prediction]:
        if not batch:
            return []
        data = pseudo_collate([loaded.data for loaded in batch])
        with torch.no_grad(), autocast(enabled=self._fp16):
            samples = self.model.test_step(data)
        return [
            Prediction(loaded.source, loaded.image, sample.cpu())
            for loaded, sample in zip(batch, samples)
        ]


def inference(
    config: Union[str, Path, Config],
    checkpoint: Union[str, Path],
    device: Union[str, torch.device, None] = None,
    tta: bool = False,
    cfg_options: Optional[Dict[str, Any]] = None,
) -> Inferencer:
    """Set up a trained detector or segmentor.

    Nothing is downloaded, and nothing of the checkpoint is run: it passes the guard of
    :func:`mmrest.checkpoint.read_checkpoint`.

    Args:
        config: config file of mmrest, mmdet or mmseg, or what it was read to.
        checkpoint: weights of the whole network, as training leaves them.
        device: such as 'cpu' or 'cuda:1'; default: an accelerator where there is one.
        tta: augment as the config's ``tta_pipeline`` and ``tta_model`` say.
        cfg_options: values to replace in the config, by dotted key.

    Returns:
        An object to be called with images.

    Raises:
        UsageError: the config, an option or the device does not fit.
        CheckpointError: the checkpoint cannot be read or does not cover the network.

    Example:
        >>> model = inference('configs/demo_maskrcnn_rmt_t.py', 'work_dirs/demo/best.pth')
        >>> sample = model('image.jpg')
        >>> sample.pred_instances.bboxes
    """
    if isinstance(config, Config):
        config = copy.deepcopy(config)
        config.merge_from_dict(cfg_options or {})
    else:
        config = load_config(str(config), cfg_options)
    return Inferencer(config, str(checkpoint), device, tta)


def is_segmentor(cfg: Config) -> bool:
    """Whether the network of a config gives label maps."""
    return cfg.get('default_scope') == 'mmseg'


def _test_data(cfg: Config) -> Config:
    """The data set of the test, inside of wrappers too."""
    loader = 'test_dataloader'
    for _, part in dicts(cfg.get(loader), loader):
        if part.get('pipeline'):
            return part
    raise UsageError(f'{cfg.filename} has no test_dataloader.dataset.pipeline to read images with')


def _load(model: nn.Module, path: str) -> Dict[str, Any]:
    """Load all weights of a model; returns what the checkpoint says of its classes."""
    while isinstance(model, BaseTTAModel):
        model = model.module
    content = load_guarded(path, 'cpu')
    meta = content.get('meta')
    model.load_state_dict(StrictWeightsHook().fitted(model, path, content).tensors, strict=False)
    return (meta.get('dataset_meta') if isinstance(meta, dict) else None) or {}


def _pipeline(cfg: Config, steps: List[dict]) -> Tuple[Callable, Compose]:
    """What loads a file or an array, and the transforms after it."""
    first, *others = [step for step in steps if not _reads_annotations(step)]
    if _short_name(first) != 'LoadImageFromFile':
        raise UsageError(
            f'the test pipeline of {cfg.filename} begins with {_short_name(first)}, where '
            'inference needs LoadImageFromFile'
        )
    loader = TRANSFORMS.build(dict(first, type='InferencerLoader'))
    return loader, Compose([_without_annotations(step) for step in others])


def _short_name(step: dict) -> str:
    return (type_name(step) or '').split('.')[-1]


def _reads_annotations(step: dict) -> bool:
    return _short_name(step) in ('LoadAnnotations', 'LoadPanopticAnnotations')


def _without_annotations(step: dict) -> dict:
    """A transform; of a TestTimeAug what does not read annotations."""
    if 'transforms' not in step:
        return step
    of_groups = [[s for s in group if not _reads_annotations(s)] for group in step['transforms']]
    return dict(step, transforms=[group for group in of_groups if group])


def _classes(
    cfg: Config, dataset: Config, meta: Dict[str, Any], counts: set
) -> Tuple[List[str], Optional[list]]:
    """Names and colours of the classes that the heads predict."""
    of_type = getattr(find_type(DATASETS, type_name(dataset)), 'METAINFO', None) or {}
    of_config = dict(of_type, **(dataset.get('metainfo') or {}))
    classes = of_config.get('classes')
    if isinstance(classes, str):
        if not os.path.isfile(classes):
            raise UsageError(
                f'test_dataloader.dataset.metainfo.classes is the string {classes!r}, where a '
                'list of names belongs'
            )
        of_config['classes'] = list_from_file(classes)
    sources = [known for known in (meta, of_config) if known.get('classes')]
    for known in sources:
        if not counts or len(known['classes']) in counts:
            palette = known.get('palette')
            return list(known['classes']), palette if isinstance(palette, (list, tuple)) else None
    head, count = next(heads(cfg), ('the model', 0))
    found = ' and '.join(str(len(known['classes'])) for known in sources) or 'no'
    raise UsageError(
        f'{head}.num_classes is {count}, but checkpoint and config name {found} classes; set '
        'test_dataloader.dataset.metainfo.classes'
    )


def _reduces_zero_label(dataset: Config) -> bool:
    kind = find_type(DATASETS, type_name(dataset))
    parameter = inspect.signature(kind).parameters.get('reduce_zero_label') if kind else None
    return bool(dataset.get('reduce_zero_label', parameter and parameter.default))


def _existing(image: Union[str, Path]) -> str:
    """The path of a file; ``~`` stands for the home folder where no file is called so."""
    path = str(image)
    return path if os.path.exists(path) else os.path.expanduser(path)
