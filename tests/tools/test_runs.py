"""tools/train.py and tools/test.py from end to end, for a detector and for a segmentor."""

import json
import pickle

import cv2
import pytest
import torch

from tests.drawn import CLASSES
from tests.shared import SHARED, needs_data
from tests.tools.runs import DETECTOR, ROOT, SEGMENTOR, evaluate, save_weights, train


def metrics(folder):
    """Metrics of the newest run of a work dir that evaluated."""
    timings = ('time', 'data_time', 'step', 'memory_mb')
    for path in sorted(folder.glob('*/vis_data/*.json'), reverse=True):
        lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        found = [line for line in lines if {'coco/bbox_mAP', 'mIoU'} & line.keys()]
        if found:
            return {key: value for key, value in found[-1].items() if key not in timings}
    for path in sorted(folder.glob('*/*.json'), reverse=True):
        content = json.loads(path.read_text())
        return {k: v for k, v in content.items() if k not in timings}
    raise AssertionError(f'no metrics in {folder}')


@pytest.fixture(scope='module')
def detector(tmp_path_factory, coco_root):
    """Folder with a detector that was trained for one epoch, and the output of that."""
    folder = tmp_path_factory.mktemp('detector')
    (folder / 'tiny.py').write_text(DETECTOR)
    done = train('tiny.py', '--data-root', coco_root, cwd=folder)
    return folder, done.stdout + done.stderr


def test_training_evaluates_and_saves(detector):
    folder, output = detector
    work_dir = folder / 'work_dirs' / 'tiny'  # the default, below where the program was started
    assert (work_dir / 'epoch_1.pth').is_file()
    assert (work_dir / 'tiny.py').is_file()
    assert metrics(work_dir)['coco/bbox_mAP'] >= 0
    assert 'coco/segm_mAP' in metrics(work_dir)
    assert 'replaced 1 SyncBN layers of the config with BN: SyncBN needs CUDA' in output


def test_training_resumes(detector, coco_root):
    folder, _ = detector
    common = ('tiny.py', '--data-root', coco_root, '--cfg-options', 'train_cfg.max_epochs=2')
    done = train(*common, '--resume', cwd=folder)
    output = done.stdout + done.stderr
    assert 'resumed epoch: 1, iter: 2' in output
    work_dir = folder / 'work_dirs' / 'tiny'
    state = torch.load(work_dir / 'epoch_2.pth', map_location='cpu', weights_only=False)
    assert (state['meta']['epoch'], state['meta']['iter']) == (2, 4)
    named = train(*common, '--work-dir', 'other', '--resume', work_dir / 'epoch_1.pth', cwd=folder)
    assert 'resumed epoch: 1, iter: 2' in named.stdout + named.stderr
    assert (folder / 'other' / 'epoch_2.pth').is_file()


def test_testing_keeps_the_config_of_the_training(detector, coco_root):
    folder, _ = detector
    kept = folder / 'work_dirs' / 'tiny' / 'tiny.py'
    before = kept.read_text()
    evaluate('tiny.py', 'work_dirs/tiny/epoch_1.pth', '--data-root', coco_root, cwd=folder)
    assert kept.read_text() == before
    assert 'epoch_1.pth' in (kept.parent / 'tiny_tested.py').read_text()


def test_a_run_without_preflight(detector, coco_root):
    folder, _ = detector
    classes = 'train_dataloader.dataset.metainfo.classes=(car,bicycle,person)'
    args = (
        'tiny.py',
        '--data-root',
        coco_root,
        '--work-dir',
        'unchecked',
        '--cfg-options',
        classes,
    )
    done = train(*args, cwd=folder, check=False)
    assert done.returncode == 1 and 'names would be swapped' in done.stderr
    train(*args, '--skip-preflight', cwd=folder)
    assert (folder / 'unchecked' / 'epoch_1.pth').is_file()


def test_testing_repeats_the_validation(detector, coco_root):
    folder, _ = detector
    evaluate(
        'tiny.py',
        'work_dirs/tiny/epoch_1.pth',
        '--data-root',
        coco_root,
        '--work-dir',
        'tested',
        '--out',
        'predictions.pkl',
        '--show-dir',
        'pictures',
        cwd=folder,
    )
    first_run = min((folder / 'work_dirs' / 'tiny').glob('2*'))
    validated = [
        json.loads(line)
        for line in next(first_run.glob('vis_data/2*.json')).open()
        if 'mAP' in line
    ]
    tested = metrics(folder / 'tested')
    assert tested == {key: validated[0][key] for key in tested} and len(tested) == 12
    predictions = pickle.loads((folder / 'predictions.pkl').read_bytes())
    assert len(predictions) == 4 and predictions[0]['pred_instances']['masks']
    pictures = list((folder / 'pictures').glob('*.jpg'))
    assert len(pictures) == 4 and cv2.imread(str(pictures[0])) is not None


def test_segmentor(tmp_path, ade_root):
    (tmp_path / 'tiny.py').write_text(SEGMENTOR)
    train('tiny.py', '--data-root', ade_root, cwd=tmp_path)
    work_dir = tmp_path / 'work_dirs' / 'tiny'
    validated = metrics(work_dir)
    evaluate(
        'tiny.py',
        work_dir / 'iter_2.pth',
        '--data-root',
        ade_root,
        '--work-dir',
        'tested',
        '--out',
        'maps',
        '--show-dir',
        'pictures',
        cwd=tmp_path,
    )
    assert metrics(tmp_path / 'tested') == validated
    assert len(list((tmp_path / 'maps').glob('*.png'))) == 4
    assert len(list((tmp_path / 'pictures').rglob('*.png'))) == 4


def test_checkpoints_that_do_not_fit(detector, coco_root):
    folder, _ = detector
    state = torch.load(folder / 'work_dirs/tiny/epoch_1.pth', weights_only=False)['state_dict']
    backbone = {n[9:]: tensor for n, tensor in state.items() if n.startswith('backbone.')}
    torch.save(backbone, folder / 'backbone.pth')
    torch.save({'state_dict': state}, folder / 'weights.pth')
    common = ('--data-root', coco_root, '--work-dir', 'unfit')
    for program, args, line in (
        (evaluate, ('backbone.pth',), 'error: backbone.pth for MaskRCNN does not fit: 0 of '),
        (train, ('--resume', 'weights.pth'), 'error: weights.pth is no checkpoint of a run'),
    ):
        done = program('tiny.py', *args, *common, cwd=folder, check=False)
        assert done.returncode == 1 and 'Traceback' not in done.stderr
        assert line in done.stderr.splitlines()[-1]


RETINANET = f"""
_base_ = '{ROOT}/configs/retinanet_rest_lite_1x.py'
arch = dict(_delete_=True, dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4))
model = dict(
    backbone=dict(arch=arch),
    neck=dict(in_channels=[16, 24, 32], out_channels=16),
    bbox_head=dict(in_channels=16, feat_channels=16, stacked_convs=1, num_classes=3),
    test_cfg=dict(score_thr=0.0),
)
metainfo = dict(classes={CLASSES})
test_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(metainfo=metainfo)
)
default_hooks = dict(logger=dict(interval=1))
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1]['transforms'][0][0]['scale'] = (80, 60)
"""
SCALED = (
    SEGMENTOR
    + """
img_ratios = [1.0, 1.5]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TestTimeAug', transforms=[
        [dict(type='Resize', scale_factor=ratio, keep_ratio=True) for ratio in img_ratios],
        [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
        [dict(type='LoadAnnotations')], [dict(type='PackSegInputs')],
    ]),
]
"""
)


@pytest.mark.parametrize(
    'text, out',
    [(RETINANET, 'boxes.pkl'), pytest.param(SCALED, 'maps', marks=pytest.mark.slow)],
    ids=['boxes', 'maps'],
)
def test_augmentation(tmp_path, coco_root, ade_root, text, out):
    """--tta goes through the whole set, with the weights of the checkpoint it was given."""
    (tmp_path / 'tiny.py').write_text(text)
    root = ade_root if text is SCALED else coco_root
    predictions = []
    for seed in range(2):
        save_weights(tmp_path / 'weights.pth', tmp_path / 'tiny.py', seed)
        common = ('tiny.py', 'weights.pth', '--data-root', root, '--tta')
        evaluate(*common, '--work-dir', str(seed), '--out', f'{seed}{out}', cwd=tmp_path)
        assert metrics(tmp_path / str(seed))
        kept = tmp_path / f'{seed}{out}'
        if kept.is_dir():
            predictions.append([cv2.imread(str(path)).tolist() for path in kept.iterdir()])
        else:
            boxes = [sample['pred_instances'] for sample in pickle.loads(kept.read_bytes())]
            predictions.append([part['bboxes'].tolist() for part in boxes])
            assert all(predictions[-1])
        assert len(predictions[-1]) == 4
    assert predictions[0] != predictions[1]


@needs_data
def test_real_photographs(tmp_path):
    """Photographs of COCO, with its 80 classes, through training and evaluation."""
    text = DETECTOR.replace('num_classes=3', 'num_classes=80').replace(', metainfo=metainfo', '')
    (tmp_path / 'real.py').write_text(text)
    few = 'train_dataloader.dataset.indices=2'
    train('real.py', '--data-root', SHARED / 'data/coco', '--cfg-options', few, cwd=tmp_path)
    work_dir = tmp_path / 'work_dirs' / 'real'
    common = ('--data-root', SHARED / 'data/coco', '--work-dir', 'tested')
    evaluate('real.py', work_dir / 'epoch_1.pth', *common, cwd=tmp_path)
    assert metrics(tmp_path / 'tested') == metrics(work_dir)
