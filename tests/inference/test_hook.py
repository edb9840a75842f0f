"""Visualizations and label maps of a test run."""

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

from mmrest.errors import UsageError
from mmrest.inference.hook import PredictionsHook
from mmrest.inference.outputs import Viewer
from tests.inference.test_overlay import instances


class Data(list):
    def __init__(self, samples, classes=('wall', 'door'), palette=((255, 0, 0),), **metainfo):
        super().__init__(samples)
        self.metainfo = dict(classes=classes, palette=palette, **metainfo)

    def get_data_info(self, index):
        path = self[index].get('img_path')
        return dict(img_path=path, seg_map_path=path and path.replace('.jpg', '.png'))


def run(hook, data):
    loader = SimpleNamespace(dataset=data)
    runner = SimpleNamespace(test_loop=SimpleNamespace(dataloader=loader))
    hook.before_test(runner)
    hook.after_test_iter(runner, outputs=data)


@pytest.fixture
def metas(tmp_path):
    """Metainfo of images of the same name in two folders."""
    found = []
    for folder in 'ab':
        path = tmp_path / folder / 'frame0.jpg'
        path.parent.mkdir()
        cv2.imwrite(str(path), np.full((48, 64, 3), 128, np.uint8))
        found.append(dict(img_path=str(path), ori_shape=(48, 64)))
    return found


def test_a_detector(metas, tmp_path):
    """Ground truth is on the left; no image overwrites one of the same name."""
    found = instances([[10, 20, 30, 40]], [0], scores=[0.4])
    truths = (InstanceData(), instances([[10, 20, 30, 40]], [1]))  # the first is not annotated
    samples = [
        DetDataSample(metainfo=meta, pred_instances=found, gt_instances=truth)
        for meta, truth in zip(metas, truths)
    ]
    hook = PredictionsHook(Viewer(tmp_path / 'out'), None, score_thr=0.3)
    run(hook, Data(samples))
    first, second = (cv2.imread(str(tmp_path / 'out' / f / 'frame0.jpg')) for f in 'ab')
    assert first.shape == (480, 640, 3) and second.shape == (480, 1280, 3)
    assert np.abs(first[300, 100].astype(int) - (0, 0, 255)).max() < 60
    assert np.abs(second[:, 640:].astype(int) - first).mean() < 1
    assert np.abs(second[300, 100].astype(int) - (0, 0, 255)).max() > 100  # another class


@pytest.mark.parametrize('dtype, classes, reduced', [
    (torch.long, ('wall', 'door'), False),
    (torch.long, ('wall', 'door'), True),
    (torch.float32, ('door',), False),  # binary
])  # fmt: skip
def test_label_maps(metas, tmp_path, dtype, classes, reduced):
    """Label maps have the values of annotation files."""
    samples = [SegDataSample(metainfo=meta) for meta in metas]
    for number, sample in enumerate(samples):
        sample.pred_sem_seg = PixelData(data=torch.full((1, 48, 64), number, dtype=dtype))
    hook = PredictionsHook(Viewer(tmp_path / 'out'), tmp_path / 'maps')
    run(hook, Data(samples, classes, reduce_zero_label=reduced))
    for number, folder in enumerate('ab'):
        label_map = cv2.imread(str(tmp_path / 'maps' / folder / 'frame0.png'), -1)
        assert label_map.shape == (48, 64) and (label_map == number + reduced).all()
        assert (tmp_path / 'out' / folder / 'frame0.jpg').is_file()


@pytest.mark.parametrize('shown, option', [(True, '--show-dir'), (False, '--out')])
def test_inputs_are_not_overwritten(metas, tmp_path, shown, option):
    """Neither images nor label maps of the dataset."""
    for meta in metas:
        Path(meta['img_path']).with_suffix('.png').touch()
    hook = PredictionsHook(Viewer(tmp_path if shown else None), None if shown else tmp_path)
    with pytest.raises(UsageError, match=f'frame0.* is an input .* choose another {option}'):
        run(hook, Data([DetDataSample(metainfo=meta) for meta in metas]))


def test_what_cannot_be_drawn(metas, tmp_path):
    depths = [SegDataSample(metainfo=meta, pred_depth_map=PixelData()) for meta in metas]
    with pytest.raises(UsageError, match=r'pred_depth_map .* cannot be drawn; drop --show'):
        run(PredictionsHook(None, tmp_path), Data(depths))


def test_classes_without_names(metas, tmp_path):
    with pytest.raises(UsageError, match='Data has no names of classes; set metainfo'):
        run(PredictionsHook(Viewer(tmp_path / 'out'), None), Data(metas, classes=None))


def test_images_that_are_not_files(tmp_path):
    with pytest.raises(UsageError, match='images are not files; drop --show, '):
        run(PredictionsHook(Viewer(tmp_path), None), Data([DetDataSample()]))
