"""tools/train.py --dry-run: figures of a run, or what is wrong with it, and nothing written."""

import json
import runpy
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch

from tests.configs.test_recipes import ALL, DETECTORS
from tests.drawn import draw_ade, draw_coco
from tests.runs import DETECTOR, ROOT, SEGMENTOR, save_weights, train
from tests.shared import SHARED, needs_data


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two tiny configs with their data, of whose faults each test has its own."""
    (tmp_path / 'tiny.py').write_text(DETECTOR)
    (tmp_path / 'tiny_seg.py').write_text(SEGMENTOR)
    (tmp_path / 'coco').mkdir()
    (tmp_path / 'ade').mkdir()
    draw_coco(tmp_path / 'coco')
    draw_ade(tmp_path / 'ade')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def everything(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob('*')}


def dry_run(config, root, *args):
    """Run it in this process; returns what it exits with, None for success."""
    argv = sys.argv
    sys.argv = ['train.py', str(config), '--data-root', str(root), '--dry-run', *map(str, args)]
    try:
        runpy.run_path(str(ROOT / 'tools' / 'train.py'), run_name='__main__')
    except SystemExit as end:
        return end.code
    finally:
        sys.argv = argv


def fault(folder, config, root, *args):
    """The one line of a fault, which leaves every file as it was."""
    before = everything(folder)
    line = dry_run(config, root, *args)
    assert isinstance(line, str) and line.startswith('train.py: error: ') and '\n' not in line
    assert everything(folder) == before
    return line


def test_a_program_of_its_own(folder):
    before = everything(folder)
    args = ('tiny.py', '--data-root', 'coco', '--dry-run')
    done = train(*args, cwd=folder, PYTHONDONTWRITEBYTECODE='1')
    assert 'tiny.py passed all checks' in done.stdout
    done = train(*args, '--work-dir', 'tiny.py/x', cwd=folder, check=False)
    assert done.returncode == 2 and 'tiny.py is not a folder' in done.stderr
    done = train(*args, '--cfg-options', 'work_dir=tiny.py/x', cwd=folder, check=False)
    assert done.returncode == 1 and 'tiny.py is not a folder' in done.stderr
    assert everything(folder) == before


def test_a_detector(folder, capsys):
    save_weights(folder / 'x.pth', folder / 'tiny.py')
    before = everything(folder)
    assert dry_run('tiny.py', 'coco', '--pretrained', 'x.pth', '--work-dir', 'new') is None
    assert everything(folder) == before
    out = ' '.join(capsys.readouterr().out.replace('│', ' ').split())
    for figure in (
        'classes of train_dataloader.dataset 3: person, bicycle, car',
        'images of train_dataloader.dataset 4 used of 4',
        'val_evaluator on the ground truth coco/segm_mAP 1.000',
        'first step loss ',
        'tensors loaded from x.pth, backbone.*',
        'batch 2 x 1 process(es)',
        'iterations per epoch 2',
        'length 1 epochs',
        'optimizer AdamW, lr 0.0001 (for an effective batch size of 16)',
        'are free',
    ):
        assert figure in out, figure


def test_a_segmentor(folder, capsys):
    before = everything(folder)
    assert dry_run('tiny_seg.py', 'ade') is None
    assert everything(folder) == before
    out = ' '.join(capsys.readouterr().out.replace('│', ' ').split())
    assert '150: wall, building, sky, ...' in out and 'length 2 iterations' in out
    assert 'val_evaluator on the ground truth mIoU 100.000' in out and 'first step loss' in out
    assert '3 classes in a sample' in out


def test_resuming(folder):
    assert 'absent.pth does not exist' in fault(
        folder, 'tiny.py', 'coco', '--resume', 'absent.pth'
    )
    assert dry_run('tiny.py', 'coco', '--resume') is None
    assert not (folder / 'work_dirs').exists()


def test_resuming_where_there_is_nothing(folder, capsys):
    """The run begins as it would have without --resume."""
    assert dry_run('tiny.py', 'coco', '--resume') is None
    assert 'starting from scratch' in ' '.join(capsys.readouterr().out.split())
    assert 'absent.pth does not exist' in fault(
        folder, 'tiny.py', 'coco', '--resume', '--cfg-options', 'load_from=absent.pth'
    )


@pytest.mark.parametrize(
    'config, root, images',
    [('tiny.py', 'coco', 'train2017'), ('tiny_seg.py', 'ade', 'images/training')],
)
def test_missing_image_folder(folder, config, root, images):
    shutil.rmtree(folder / root / images)
    line = fault(folder, config, root)
    assert f'{root}/{images}' in line and ' not found; pass --data-root DIR' in line


def test_broken_json(folder):
    path = folder / 'coco' / 'annotations' / 'instances_train2017.json'
    path.write_text(path.read_text()[:-100])
    assert 'is not a valid COCO annotation file: JSON' in fault(folder, 'tiny.py', 'coco')


@pytest.mark.parametrize(
    'config, root, head, right',
    [
        ('tiny.py', 'coco', 'roi_head.bbox_head', 3),
        ('tiny_seg.py', 'ade', 'decode_head', 150),
    ],
)
def test_wrong_class_count(folder, config, root, head, right):
    options = '--cfg-options', f'model.{head}.num_classes=7'
    assert f'set model.{head}.num_classes={right}' in fault(folder, config, root, *options)


def test_unfit_weights(folder):
    save_weights(folder / 'x.pth', folder / 'tiny.py')
    options = '--pretrained', 'x.pth', '--cfg-options', 'model.backbone.arch.dims=(8,16,24,40)'
    more = 'model.backbone.arch.num_heads=(1,2,3,5)', 'model.neck.in_channels=[8,16,24,40]'
    assert 'of another shape' in fault(folder, 'tiny.py', 'coco', *options, *more)
    load = '--cfg-options', 'load_from=x.pth', *options[3:], *more
    assert 'of another shape' in fault(folder, 'tiny.py', 'coco', *load)


def test_unwritable_work_dir(folder, monkeypatch):
    options = '--cfg-options', 'work_dir=tiny.py/run'  # which root cannot make either
    assert 'tiny.py is not a folder; use another' in fault(folder, 'tiny.py', 'coco', *options)
    # Root may write anywhere, so the answer that others get is made up.
    monkeypatch.setattr('os.access', lambda *args, **kwargs: False)
    assert 'is not writable; use another --work-dir' in fault(folder, 'tiny.py', 'coco')


@pytest.mark.parametrize(
    'config, root, image',
    [
        ('tiny.py', 'coco', 'val2017/000000000002.jpg'),
        ('tiny_seg.py', 'ade', 'images/training/2.jpg'),
        ('tiny_seg.py', 'ade', 'annotations/training/2.png'),
    ],
)
def test_corrupt_image(folder, config, root, image):
    path = folder / root / image
    path.write_bytes(path.read_bytes()[:30])
    assert f'{root}/{image}: ' in fault(folder, config, root)


def test_full_disk(folder, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: SimpleNamespace(free=1000))
    line = fault(folder, 'tiny.py', 'coco')
    assert 'for the checkpoints of this run (3 of ' in line
    assert 'max_keep_ckpts=2' in line


def test_an_annotation_of_no_image(folder):
    """Data that mmdet would train on is no fault."""
    path = folder / 'coco' / 'annotations' / 'instances_train2017.json'
    content = json.loads(path.read_text())
    content['annotations'][0]['image_id'] = 999
    path.write_text(json.dumps(content))
    assert dry_run('tiny.py', 'coco') is None


@pytest.mark.slow
@needs_data
def test_every_config(tmp_path, monkeypatch, capsys):
    """In one process; each takes a step with the network that it names."""
    monkeypatch.chdir(tmp_path)
    # The largest keep 65 GiB, which not every machine that tests has.
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: SimpleNamespace(free=2**40))
    for config in ALL:
        root = 'coco' if config[0] in DETECTORS else 'ade/ADEChallengeData2016'
        name = '_'.join(config)
        code = dry_run(ROOT / 'configs' / f'{name}.py', SHARED / 'data' / root)
        assert code is None and 'passed all checks' in capsys.readouterr().out, (name, code)
        assert torch.initial_seed() == 0
    assert not list(tmp_path.iterdir()) and len(ALL) == 64
