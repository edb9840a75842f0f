"""mmrest train and mmrest test from end to end, for a detector and for a segmentor."""

import json
import logging
import pickle
from types import SimpleNamespace

import cv2
import pytest
import torch
from torch import nn

from mmrest.cli.train import explained_start
from mmrest.errors import UsageError
from tests.runs import DETECTOR, RETINANET, SMALL_SEGMENTOR, evaluate, lay_out, small_clone, train


def metrics(folder):
    """Return the metrics of the newest evaluation in a work dir."""
    run = max(path for path in folder.glob('2*') if path.is_dir())
    path = next(run.glob('*.json'), run / 'vis_data' / 'scalars.json')  # of a test, of a training
    found = json.loads(path.read_text().splitlines()[-1])
    timings = ('time', 'data_time', 'step', 'memory_mb')
    return {key: value for key, value in found.items() if key not in timings}


@pytest.fixture(scope='module')
def detector(tmp_path_factory, coco_root):
    """Folder with a detector trained for one epoch, and the output."""
    folder = tmp_path_factory.mktemp('detector')
    (folder / 'tiny.py').write_text(DETECTOR)
    norm = 'model.backbone.norm_cfg.type=MMSyncBN'  # which cannot be built without a launcher
    done = train('tiny.py', '--data-root', coco_root, '--cfg-options', norm, cwd=folder)
    return folder, done.stdout + done.stderr


def test_training_evaluates_and_saves(detector):
    folder, output = detector
    work_dir = folder / 'work_dirs' / 'tiny'  # the default, below where the command was started
    assert (work_dir / 'epoch_1.pth').is_file()
    assert (work_dir / 'tiny.py').is_file()
    assert metrics(work_dir)['coco/bbox_mAP'] >= 0
    assert 'coco/segm_mAP' in metrics(work_dir)
    assert 'replaced 1 SyncBN layers of the config with BN' in output


def test_testing_repeats_the_validation(detector, coco_root):
    """The config of the training is kept."""
    folder, _ = detector
    work_dir = folder / 'work_dirs' / 'tiny'
    kept, validated = (work_dir / 'tiny.py').read_text(), metrics(work_dir)
    args = ('work_dirs/tiny/epoch_1.pth', '--data-root', coco_root, '--out', 'predictions.pkl')
    evaluate('tiny.py', *args, '--show-dir', 'shown', cwd=folder)
    tested = metrics(work_dir)
    assert tested == {key: validated[key] for key in tested} and len(tested) == 12
    predictions = pickle.loads((folder / 'predictions.pkl').read_bytes())
    assert len(predictions) == 4 and predictions[0]['pred_instances']['masks']
    shown = list((folder / 'shown').glob('*.jpg'))
    assert len(shown) == 4 and cv2.imread(str(shown[0])) is not None
    assert (work_dir / 'tiny.py').read_text() == kept
    assert 'epoch_1.pth' in (work_dir / 'tiny_tested.py').read_text()


def test_training_resumes(detector, coco_root):
    """Without pre-flight checks, which would reject these classes."""
    folder, _ = detector
    classes = 'train_dataloader.dataset.metainfo.classes=(car,bicycle,person)'
    options = ('--skip-preflight', '--cfg-options', 'train_cfg.max_epochs=2', classes)
    done = train('tiny.py', '--data-root', coco_root, '--resume', *options, cwd=folder)
    assert 'resumed epoch: 1, iter: 2' in done.stdout + done.stderr
    state = torch.load(folder / 'work_dirs/tiny/epoch_2.pth', weights_only=False)
    assert (state['meta']['epoch'], state['meta']['iter']) == (2, 4)


def test_segmentor(tmp_path, ade_root):
    (tmp_path / 'tiny.py').write_text(f'{SMALL_SEGMENTOR}\nval_dataloader = test_dataloader')
    train('tiny.py', '--data-root', ade_root, cwd=tmp_path)
    work_dir = tmp_path / 'work_dirs' / 'tiny'
    common = ('--data-root', ade_root, '--work-dir', 'tested', '--out', 'maps')
    evaluate('tiny.py', work_dir / 'iter_2.pth', *common, '--show-dir', 'shown', cwd=tmp_path)
    assert metrics(tmp_path / 'tested') == metrics(work_dir)
    assert len(list((tmp_path / 'maps').glob('*.png'))) == 4
    assert len(list((tmp_path / 'shown').glob('*.jpg'))) == 4


def augmented(folder, text, data_root, out, bias):
    """Test with --tta; a bias in the weights makes all predictions class 2."""
    content = torch.load(lay_out(folder, tiny=text) / 'tiny.pth')
    content['state_dict'][bias][2::3] += 100
    torch.save(content, folder / 'tiny.pth')
    common = ('tiny.py', 'tiny.pth', '--data-root', data_root, '--tta')
    evaluate(*common, '--work-dir', 'run', '--out', out, cwd=folder)
    assert metrics(folder / 'run')
    return folder / out


def test_augmentation_of_boxes(tmp_path, coco_root):
    """--tta tests all images, with the weights of its checkpoint."""
    out = augmented(tmp_path, RETINANET, coco_root, 'boxes.pkl', 'bbox_head.retina_cls.bias')
    found = [sample['pred_instances'] for sample in pickle.loads(out.read_bytes())]
    assert len(found) == 4
    first = [(part['labels'][:20], part['scores'][:20]) for part in found]
    assert all((labels == 2).all() and (scores > 0.9).all() for labels, scores in first)


@pytest.mark.slow
def test_augmentation_of_label_maps(tmp_path, ade_root):
    out = augmented(tmp_path, SMALL_SEGMENTOR, ade_root, 'maps', 'decode_head.conv_seg.bias')
    found = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in out.iterdir()]
    assert len(found) == 4 and all((labels % 3 == 0).all() for labels in found)


def test_errors_of_the_first_step(tmp_path):
    """Those of the network are one line, if the log has the traceback; others are not changed."""
    network, logger = nn.Sequential(nn.Linear(2, 3)), logging.Logger('first step')
    runner = SimpleNamespace(iter=0, logger=logger, log_dir='folder')
    with pytest.raises(RuntimeError, match='shapes cannot be multiplied'), explained_start(runner):
        network(torch.ones(1, 3))
    logger.addHandler(logging.FileHandler(tmp_path / 'log'))
    line = r'fails in 0 \(traceback in folder\): RuntimeError: .*; check that network and data '
    with pytest.raises(UsageError, match=line), explained_start(runner):
        network(torch.ones(1, 3))
    for error in (KeyError, UsageError):
        with pytest.raises(error, match='other'), explained_start(runner):
            raise error('other')
    assert (tmp_path / 'log').read_text().count('Traceback') == 1


def test_own_classes(tmp_path, coco_root):
    """Custom data trains with two changed lines of configs/own_coco.py."""
    clone = small_clone(tmp_path)
    config = clone / 'configs' / 'own_coco.py'
    before = config.read_text()
    after = before.replace("'data/shapes/coco/'", f"'{coco_root}'")
    after = after.replace("('square', 'disc', 'triangle')", "('person', 'car')")  # ids 1 and 3
    assert sum(map(str.__ne__, before.splitlines(), after.splitlines())) == 2
    config.write_text(after)

    done = train('configs/own_coco.py', cwd=clone)
    assert 'bbox_mAP: ' in done.stdout and 'segm_mAP: ' in done.stdout
    state = torch.load(clone / 'work_dirs/own_coco/epoch_1.pth', weights_only=False)
    assert state['meta']['dataset_meta']['classes'] == ('person', 'car')
    assert state['state_dict']['roi_head.mask_head.conv_logits.bias'].shape == (2,)
