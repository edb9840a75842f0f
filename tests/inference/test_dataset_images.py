"""Images of datasets with predictions: of a test run, in contact sheets and in reports."""

from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample

from mmrest.errors import UsageError
from mmrest.inference.dataset_images import PredictionsHook, draw_panel, draw_predictions
from mmrest.inference.outputs import Viewer
from tests.inference.test_overlay import instances

COLOURS = [(255, 0, 0), (0, 0, 255)]


class Data(list):
    def __init__(self, samples, classes=('wall', 'door'), **metainfo):
        super().__init__(samples)
        self.metainfo = dict(classes=classes, palette=COLOURS, **metainfo)

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
        found.append(dict(img_path=str(path), ori_shape=(48, 64), scale_factor=(0.5, 0.5)))
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


def test_classes_without_names(metas, tmp_path):
    with pytest.raises(UsageError, match='Data has no names of classes; set metainfo'):
        run(PredictionsHook(Viewer(tmp_path / 'out'), None), Data(metas, classes=None))


def test_images_that_are_not_files(tmp_path):
    with pytest.raises(UsageError, match='images are not files; drop --show, '):
        run(PredictionsHook(Viewer(tmp_path), None), Data([DetDataSample()]))


def sheet(sample, data, path):
    """Return the contact sheet of a network that predicts a sample."""
    network = Mock(test_step=lambda _: [sample])
    draw_predictions(network, data, path)
    return cv2.imread(str(path))


def detections(**scores):
    return instances([[5, 5, 15, 15], [30, 20, 50, 35]], [0, 1], **scores)


def has(picture, colour):
    """Return True if a colour (RGB) occurs, within the error of JPEG and scaling."""
    return bool((np.abs(picture[..., ::-1].astype(int) - colour).max(-1) < 40).any())


@pytest.mark.parametrize('scores, drawn', [([0.9, 0.8], True), ([0.4, 0.3], False)])
def test_sheet_of_instances(metas, tmp_path, scores, drawn):
    """Three columns; the detections above the threshold are in the last one."""
    truth = DetDataSample(metainfo=metas[0], gt_instances=detections()[:0])
    sample = DetDataSample(metainfo=metas[0], pred_instances=detections(scores=scores))
    data = Data([dict(inputs=torch.zeros(3, 24, 32), data_samples=truth)] * 2)
    picture = sheet(sample, data, tmp_path / 'x.png')
    assert picture.shape[1] == 3 * 438 and picture.shape[0] > 2 * 322
    left, right = np.split(picture, [2 * 438], axis=1)
    for colour in COLOURS:
        assert has(right, colour) is drawn and not has(left, colour)


def test_sheet_of_classes(metas, tmp_path):
    sample = DataSample(metainfo=metas[0]).set_gt_label(1).set_pred_label(1)
    sample.set_pred_score(torch.tensor([0, 1.0]))
    data = Data([dict(inputs=torch.zeros(3, 24, 32), data_samples=sample)] * 7)
    drawn = sheet(sample, data, tmp_path / 'x.png')
    assert 4 * 322 < drawn.shape[0] < 5 * 322 and has(drawn[:, 2 * 438 :], (27, 127, 59))


def panel(meta, content):
    jpeg, inside = draw_panel(Path(meta['img_path']), content, Data([]))
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), inside


def test_panel_of_a_label_map(metas):
    """A label map over a grey image, partly ignored, and its description."""
    labels = np.zeros((48, 64), int)
    labels[:, 32:], labels[:10] = 1, 255
    picture, inside = panel(metas[0], labels)
    assert picture.shape == (360, 480, 3) and inside == 'wall 40%, door 40%'
    expected = {(40, 120): (128, 128, 128), (300, 20): (58, 58, 198), (300, 460): (198, 58, 58)}
    for place, colour in expected.items():
        assert np.abs(picture[place].astype(int) - colour).max() < 12


def test_panel_of_instances(metas):
    found = detections(scores=[0.9, 0.4])
    picture, inside = panel(metas[0], found)
    assert inside == '1 wall, 1 door' and has(picture, (255, 0, 0))
    assert panel(metas[0], found[:0])[1] == 'nothing'
