"""Inference from Python."""

import functools
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
import torch
from mmdet.datasets.transforms import PackDetInputs
from mmdet.models import RetinaNet
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS
from torch import nn

from mmrest.apis import inference
from mmrest.engine.config import load_config
from mmrest.errors import UsageError
from mmrest.inference.inputs import UnreadableImage
from tests.runs import DETECTOR, RETINANET, SMALL_SEGMENTOR, lay_out, run_here

# Fields in images of four channels, as one class with a sigmoid.
FIELDS = f"""{SMALL_SEGMENTOR}
model['backbone']['in_channels'] = 4
model['data_preprocessor'].update(mean=[120.0] * 4, std=[60.0] * 4, bgr_to_rgb=False)
model['decode_head'].update(num_classes=1, out_channels=1)
test_pipeline[0]['color_type'] = 'unchanged'
metainfo = dict(classes=['field'], palette=[[0, 255, 0]])
test_dataloader['dataset'].update(metainfo=metainfo, reduce_zero_label=False)
tta_pipeline[0]['color_type'] = 'unchanged'
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('inferencer')
    return lay_out(folder, det=DETECTOR, seg=SMALL_SEGMENTOR, boxes=RETINANET, fields=FIELDS)


@pytest.fixture(scope='module')
def images(coco_root):
    return sorted((coco_root / 'val2017').glob('*.jpg'))


@functools.lru_cache(maxsize=None)
def model(folder, name, **options):
    return inference(folder / f'{name}.py', folder / f'{name}.pth', 'cpu', **options)


def same(found, wanted):
    if 'pred_sem_seg' in wanted:
        return torch.equal(found.pred_sem_seg.data, wanted.pred_sem_seg.data)
    found, wanted = found.pred_instances, wanted.pred_instances
    return all(torch.equal(found[key], wanted[key]) for key in wanted.keys())


@pytest.mark.parametrize('name', ['det', 'seg'])
def test_paths_and_arrays(folder, images, name):
    """One or several images, as files or arrays; cli/test_infer.py compares with mmrest test."""
    infer = model(folder, name)
    arrays = [cv2.imread(str(path)) for path in images]
    of_paths, of_arrays = infer(images), infer(arrays)
    assert len(of_paths) == len(images) and infer([]) == []
    if name == 'det':
        found = of_paths[0].pred_instances
        assert found.bboxes.shape == (20, 4) and found.bboxes.dtype == torch.float32
        assert found.scores.shape == found.labels.shape == (20,)
        assert found.masks.shape == (20, 60, 80) and found.masks.dtype == torch.bool
        assert found.masks.any()
    else:
        labels = of_paths[0].pred_sem_seg.data
        assert labels.shape == (1, 60, 80) and labels.dtype == torch.int64
        assert len(labels.unique()) > 1
    for path, array, one, other in zip(images, arrays, of_paths, of_arrays):
        assert one.img_path == str(path) and 'seg_logits' not in one
        assert same(other, one) and same(infer(str(path)), one) and same(infer(array), one)


def test_images_have_a_number(folder, images, monkeypatch):
    """mmdet before 3.2 asserts that."""
    pack, given = PackDetInputs.transform, []
    monkeypatch.setattr(PackDetInputs, 'transform', lambda *a: given.append(a[1]) or pack(*a))
    model(folder, 'det')([images[0], cv2.imread(str(images[0]))])
    assert len(given) == 2 and all('img_id' in results for results in given)


def test_sizes_of_a_segmentor_are_not_mixed(folder, monkeypatch):
    """Images of several sizes, with a batch size of two: each batch has one size."""
    rng = np.random.default_rng(0)
    sizes = [(60, 80), (60, 80), (60, 60), (60, 80), (60, 80), (60, 80)]
    arrays = [rng.integers(0, 255, (*size, 3), np.uint8) for size in sizes]
    infer = model(folder, 'seg')
    step = Mock(wraps=infer.model.test_step)
    monkeypatch.setattr(infer.model, 'test_step', step)
    found = list(infer.stream(arrays, batch_size=2))
    assert [len(call.args[0]['inputs']) for call in step.call_args_list] == [2, 1, 2, 1]
    assert [p.sample.pred_sem_seg.shape for p in found] == sizes
    assert all(p.source is array for p, array in zip(found, arrays))


def test_stream_is_lazy(folder, images):
    infer = model(folder, 'det')
    taken = []
    stream = infer.stream((taken.append(path) or path for path in images * 4), batch_size=2)
    assert next(stream).source == images[0] and len(taken) <= 5 < len(images * 4)


@pytest.mark.parametrize('name', ['boxes', 'seg'])
def test_augmentation(folder, images, name):
    """With TTA, predictions for a mirrored image are mirrored; without, they are not."""
    image = cv2.imread(str(images[0]))
    mirrored = np.ascontiguousarray(image[:, ::-1])

    def differs(infer):
        one, other = infer([image, mirrored])
        if name == 'seg':
            labels, of_mirrored = one.pred_sem_seg.data, other.pred_sem_seg.data.flip(-1)
            return (labels != of_mirrored).float().mean() > 0.01
        one, other = one.pred_instances.bboxes, other.pred_instances.bboxes
        return not torch.allclose(one[:, [1, 3]], other[:, [1, 3]], atol=1e-3)

    assert not differs(model(folder, name, tta=True))
    assert differs(model(folder, name))


def test_a_model_whose_train_returns_nothing(folder, images, monkeypatch):
    """As those of knowledge distillation do, with a pipeline of nested steps."""
    monkeypatch.setattr(RetinaNet, 'train', lambda *args: nn.Module.train(*args) and None)
    cfg = load_config(str(folder / 'boxes.py'))
    steps = cfg.test_dataloader.dataset.pipeline
    (index,) = (n for n, step in enumerate(steps) if step['type'] == 'Resize')
    annotations = dict(type='mmseg.LoadDepthAnnotation')
    steps[index] = dict(type='RandomApply', prob=1.0, transforms=[steps[index], annotations])
    infer = inference(cfg, folder / 'boxes.pth', 'cpu')
    assert same(infer(images[0]), model(folder, 'boxes')(images[0]))


def test_classes_of_things_and_stuff(folder):
    """The heads of boxes predict only some of them."""
    names = ['person', 'bicycle', 'car', 'sky', 'road']
    cfg = load_config(str(folder / 'det.py'))
    metainfo = dict(classes=names, thing_classes=names[:3], stuff_classes=names[3:])
    cfg.test_dataloader.dataset.metainfo = metainfo
    assert inference(cfg, folder / 'det.pth', 'cpu').classes == names


@DATASETS.register_module(force=True)
class OwnLabels(BaseSegDataset):
    def __init__(self, **kwargs):
        super().__init__(reduce_zero_label=True, **kwargs)


@pytest.mark.parametrize('dataset, reduces', [
    ({}, True), (dict(type='OwnLabels'), True),
    (dict(type='OwnLabels', reduce_zero_label=False), False), (dict(type='BaseSegDataset'), False),
])  # fmt: skip
def test_reduced_labels(folder, tmp_path, dataset, reduces):
    """As the config or its dataset class says, else as in training."""
    cfg = load_config(str(folder / 'seg.py'))
    cfg.test_dataloader.dataset.pop('reduce_zero_label', None)
    cfg.test_dataloader.dataset.update(dataset)
    content = torch.load(folder / 'seg.pth')
    meta = dict(classes=tuple(map(str, range(150))), reduce_zero_label=True)
    torch.save(dict(content, meta=dict(dataset_meta=meta)), tmp_path / 'x.pth')
    assert inference(cfg, tmp_path / 'x.pth', 'cpu').reduces_zero_label is reduces


@pytest.mark.parametrize('tta', [False, True])
def test_a_binary_segmentor_of_four_channels(folder, tmp_path, tta):
    infer = model(folder, 'fields', tta=tta)
    assert infer.classes == ['background', 'field'] and infer.palette == [(0, 0, 0), (0, 255, 0)]
    array = np.random.default_rng(0).integers(0, 255, (60, 80, 4), np.uint8)
    cv2.imwrite(str(tmp_path / 'x.png'), array)
    found = infer(array)
    labels = found.pred_sem_seg.data
    assert labels.dtype == torch.int64 and labels.shape == (1, 60, 80) and labels.max() == 1
    assert same(infer(tmp_path / 'x.png'), found)
    (prediction,) = infer.stream([array])
    assert (prediction.image == array[..., :3]).all()
    given = (folder / 'fields.py', folder / 'fields.pth', tmp_path / 'x.png', '--device', 'cpu')
    assert not run_here('infer', *given, '--out-dir', tmp_path, *['--tta'] * tta)
    assert (cv2.imread(str(tmp_path / 'preds' / 'x.png'), -1) == labels[0].numpy()).all()
    with pytest.raises(ValueError, match=r'an array \(H, W, 4\) of uint8, got \(60, 80, 3\)'):
        infer(array[..., :3])
    cv2.imwrite(str(tmp_path / 'x.png'), array[..., :3])
    with pytest.raises(UnreadableImage, match=r'png has 3 channels, but the network takes 4'):
        infer(tmp_path / 'x.png')


def test_classes_and_colours(folder, images):
    """From the checkpoint, else the config; colours are made where there are none."""
    infer = model(folder, 'det')
    assert infer.classes == ['person', 'bicycle', 'car']
    assert infer.palette == [(220, 20, 60), (119, 11, 32), (0, 0, 142)]  # of COCO
    state = torch.load(folder / 'det.pth')
    animals = ['cat', 'dog', 'emu']
    for saved, found in (animals, animals), (animals[:2], ['person', 'bicycle', 'car']):
        meta = dict(dataset_meta=dict(classes=saved))  # the heads contradict two classes
        torch.save(dict(state, meta=meta), folder / 'named.pth')
        infer = inference(folder / 'det.py', folder / 'named.pth', 'cpu')
        assert infer.classes == found and len(set(infer.palette)) == 3


LINE = np.zeros((1, 300, 3), np.uint8)
"""A resize to 80 x 60 leaves less than a pixel of it."""


@pytest.mark.parametrize('spoil, reason', [
    (lambda data: data[:-60], 'cannot be read: OSError: image file is truncated'),
    (lambda data: b'hello', 'is not an image'),
    (lambda data: cv2.imencode('.png', LINE)[1].tobytes(), 'cannot be prepared: '),
])  # fmt: skip
def test_unreadable(folder, images, tmp_path, capfd, spoil, reason):
    """Missing parts are not filled with grey, and OpenCV prints nothing."""
    path = tmp_path / 'bad.jpg'
    path.write_bytes(spoil(images[0].read_bytes()))
    infer = model(folder, 'det')
    with pytest.raises(UnreadableImage, match=f'bad.jpg {reason}'):
        infer([images[1], path])
    assert capfd.readouterr() == ('', '')
    tell = Mock()
    assert [p.source for p in infer.stream([path, images[1]], 2, tell)] == [images[1]]
    given, error = tell.call_args.args
    assert given == path and str(path) in str(error)


def test_out_of_memory(folder, images, monkeypatch):
    infer = model(folder, 'det')
    for message, error, said in (
        ("can't allocate memory: 9 bytes\nmore", UsageError, r'memory for images of \d+ x \d+ p'),
        ('CUDA error: an illegal memory access', RuntimeError, 'illegal'),
    ):
        monkeypatch.setattr(infer.model, 'test_step', Mock(side_effect=RuntimeError(message)))
        with pytest.raises(error, match=said):
            infer(images[0])


def test_names_with_a_tilde(folder, images, tmp_path, monkeypatch):
    """Of a file first; then it is the home folder of a user, where there is one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', str(images[0].parent))
    infer = model(folder, 'det')
    (tmp_path / '~$x.jpg').write_bytes(images[0].read_bytes())
    wanted = infer(images[0])
    assert same(infer('~$x.jpg'), wanted) and same(infer(f'~/{images[0].name}'), wanted)
    with pytest.raises(UnreadableImage, match='No such file'):
        infer('~$y.jpg')


def test_arrays_of_another_kind(folder):
    arrays = [np.zeros(shape, np.uint8) for shape in ((8, 8), (8, 8, 4), (0, 8, 3))]
    for given in (*arrays, np.zeros((8, 8, 3)), None, [None], torch.zeros(5, 5, 3), b'x.jpg', 1):
        with pytest.raises(ValueError, match=r'must be a path, or an array .* of uint8, got'):
            model(folder, 'det')(given)
    with pytest.raises(UnreadableImage, match=r'an array \(1, 300, 3\) cannot be prepared: '):
        model(folder, 'det')(LINE)


def test_configs_read_in_threads(monkeypatch):
    """mmengine looks packages up in a state that all threads share."""
    monkeypatch.setattr(
        'mmrest.inference.inferencer.Inferencer', lambda cfg, *args: cfg.model.type
    )
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            names = list(threads.map(inference, ['demo_maskrcnn_rmt_t'] * 16, ['x.pth'] * 16))
    finally:
        sys.setswitchinterval(interval)
    assert names == ['MaskRCNN'] * 16


def test_options(folder, images):
    """Of a file and of a config; a device that is not there is refused."""
    options = {'model.test_cfg.rcnn.max_per_img': 7}
    for config in (folder / 'det.py', load_config(str(folder / 'det.py'))):
        infer = inference(config, folder / 'det.pth', 'cpu', cfg_options=options)
        assert len(infer(images[0]).pred_instances) == 7
    with pytest.raises(UsageError, match='device gpu cannot be used'):
        inference(folder / 'det.py', folder / 'det.pth', 'gpu')


def test_config_object(folder, images):
    cfg = load_config(str(folder / 'det.py'))
    before = json.dumps(cfg.to_dict(), default=str)
    found = inference(cfg, folder / 'det.pth', 'cpu')(images[0])
    assert same(found, model(folder, 'det')(images[0]))
    assert json.dumps(cfg.to_dict(), default=str) == before
