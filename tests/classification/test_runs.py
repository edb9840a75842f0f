"""tools/train.py and tools/test.py with a small classifier on synthetic shapes."""

import pickle
import re
import shutil

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmrest.datasets.shapes import write_classes
from tests.classification.networks import ARCH, SHAPES, build, released
from tests.runs import ROOT, evaluate, run, train

CLASSIFIER = f"""
_base_ = '{ROOT}/configs/imagenet_rmt_t_300e.py'
model = dict(
    backbone=dict(arch=dict(_delete_=True, **{ARCH!r})),
    neck=dict(in_channels=32),
    head=dict(num_classes=3),
)
train_cfg = dict(max_epochs=2)
randomness = dict(seed=0)
{SHAPES}
# Saves in the middle of an epoch of three iterations.
default_hooks['checkpoint'] = dict(interval=2, by_epoch=False)
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A config, its data, and a run of two epochs."""
    folder = tmp_path_factory.mktemp('runs')
    (folder / 'tiny.py').write_text(CLASSIFIER)
    write_classes(folder / 'data', dict(train=12, val=6), 32, 48)
    train('tiny.py', '--work-dir', 'whole', cwd=folder)
    return folder


def weights(path):
    return torch.load(path, weights_only=False)


def test_training(folder):
    log = next((folder / 'whole').glob('*/*.log')).read_text()
    assert 'best so far: accuracy/top1' in log
    assert 'total batch size is 4' in log and 'tuned for 1024' in log
    content = weights(folder / 'whole' / 'iter_6.pth')
    ema, last = content['state_dict'], content['ema_state_dict']
    name = 'head.fc.weight'
    assert not torch.equal(ema[name], last[f'module.{name}'])


def test_resuming_changes_nothing(folder):
    begun = folder / 'whole' / 'iter_4.pth'
    train('tiny.py', '--work-dir', 'resumed', '--resume', begun, cwd=folder)
    whole, resumed = (weights(folder / name / 'iter_6.pth') for name in ('whole', 'resumed'))
    begun = weights(begun)
    for key in ('state_dict', 'ema_state_dict', 'optimizer'):
        torch.testing.assert_close(resumed[key], whole[key], rtol=0, atol=0)
        with pytest.raises(AssertionError):
            torch.testing.assert_close(begun[key], whole[key], rtol=0, atol=0)
    assert resumed['param_schedulers'] == whole['param_schedulers'] != begun['param_schedulers']


def test_fine_tuning_to_other_classes(folder):
    """Also from a checkpoint of a run, which has averaged and raw weights."""
    data = folder / 'fewer' / 'imagenet'
    shutil.copytree(folder / 'data' / 'imagenet', data)
    for part in ('train', 'val'):
        shutil.rmtree(data / part / 'triangle')
    counts = 'model.head.num_classes=2', 'data_preprocessor.num_classes=2'
    options = ('load_from=whole/iter_6.pth', 'train_cfg.max_epochs=1', *counts)
    train('tiny.py', '--data-root', data, '--work-dir', 'tuned', '--cfg-options', *options,
          cwd=folder)  # fmt: skip
    log = next((folder / 'tuned').glob('*/*.log')).read_text()
    assert 'best so far: accuracy/top1' in log


def test_augmented_tests_have_the_weights_of_the_file(folder):
    """Whether or not the run averages them."""
    flips = [dict(type='RandomFlip', prob=number) for number in (0.0, 1.0)]
    (folder / 'views.py').write_text(f"""{CLASSIFIER}
tta_model = dict(type='AverageClsScoreTTA')
views = dict(type='TestTimeAug', transforms=[{flips}, [dict(type='PackInputs')]])
tta_pipeline = [*test_pipeline[:-1], views]
""")
    content = weights(folder / 'whole' / 'iter_6.pth')
    raw = {n[7:]: t for n, t in content['ema_state_dict'].items() if n.startswith('module.')}
    torch.save(dict(state_dict=raw), folder / 'raw.pth')
    plain = 'custom_hooks=[]'
    origin = 'custom_hooks.0.evaluate_on_ema=False', 'custom_hooks.0.evaluate_on_origin=True'
    found = []
    for file, options in (
        ('whole/iter_6.pth', [plain]), ('whole/iter_6.pth', ['randomness.seed=0']),
        ('raw.pth', [plain]), ('whole/iter_6.pth', origin),
    ):  # fmt: skip
        args = ('--tta', '--work-dir', 'test', '--out', 'tta.pkl', '--cfg-options', *options)
        evaluate('views.py', file, *args, cwd=folder)
        samples = pickle.loads((folder / 'tta.pkl').read_bytes())
        found.append(torch.stack([sample['pred_score'] for sample in samples]))
    assert len(found[0]) == 6 and torch.equal(*found[:2]) and torch.equal(*found[2:])
    assert not torch.equal(*found[1:3])


def top1(done):
    return float(re.findall(r'accuracy/top1: ([\d.]+)', done.stdout + done.stderr)[-1])


def test_an_official_file_is_evaluated(folder):
    """Its scores equal those of the same weights in a checkpoint of a run."""
    cfg = Config.fromfile(folder / 'tiny.py')
    torch.manual_seed(2)
    model = build(cfg)
    torch.save(released(model), folder / 'released.pth')
    torch.save(dict(state_dict=model.state_dict()), folder / 'own.pth')
    args = '--out', 'found.pkl', '--show-dir', 'shown', '--work-dir', 'test'
    done = evaluate('tiny.py', 'released.pth', *args, cwd=folder)
    log = ' '.join((done.stdout + done.stderr).split())
    assert 'tensors loaded from released.pth' in log and 'keep their initial values' not in log
    assert '4 of the file are not in the network and ignored (backbone.layers.0.' in log
    evaluate('tiny.py', 'own.pth', '--out', 'own.pkl', '--work-dir', 'test', cwd=folder)
    found, of_own = (
        pickle.loads((folder / f'{name}.pkl').read_bytes()) for name in ('found', 'own')
    )
    assert len(found) == len(of_own) == 6 and found[0]['pred_score'].shape == (3,)
    for sample, other in zip(found, of_own):
        assert sample['img_path'] == other['img_path']
        assert torch.equal(sample['pred_score'], other['pred_score'])
    right = sum(int(sample['pred_score'].argmax() == sample['gt_label']) for sample in found)
    assert top1(done) == pytest.approx(100 * right / 6, abs=1e-3)
    shown = sorted((folder / 'shown').rglob('*.jpg'))
    assert len(shown) == 6
    for path in shown:  # in true colours, below the text
        (image,) = (folder / 'data' / 'imagenet' / 'val').glob(f'*/{path.name}')
        colours = (cv2.imread(str(file))[-4:].mean((0, 1)) for file in (path, image))
        assert np.abs(np.subtract(*colours)).max() < 25


def test_browse_dataset(folder):
    run(
        ROOT / 'tools' / 'browse_dataset.py', 'tiny.py', '--not-show', '--output-dir', 'drawn',
        '--number', '2', cwd=folder,
    )  # fmt: skip
    assert len(list((folder / 'drawn').iterdir())) == 2
