"""What is missing or cannot be ends with one line that names it, and with nothing written."""

import runpy
import shutil
import sys

import pytest

from tests.tools.runs import DETECTOR, ROOT, train

CASES = {
    'config': ('train', ['absent.py'], 'config absent.py does not exist'),
    'data root': (
        'train',
        ['tiny.py', '--data-root', 'absent'],
        'data folder (train_dataloader.dataset.data_root) absent/ does not exist; give',
    ),
    'unset data root': (
        'train',
        ['tiny.py'],
        'data_root) data/coco/ does not exist; give --data-root DIR',
    ),
    'annotations': (
        'train',
        ['tiny.py', '--data-root', 'no_json'],
        'ann_file) no_json/annotations/instances_train2017.json does not exist',
    ),
    'pictures': (
        'train',
        ['tiny.py', '--data-root', 'no_val'],
        '(val_dataloader.dataset.data_prefix.img) no_val/val2017/ does not exist',
    ),
    'resume': (
        'train',
        ['tiny.py', '--data-root', 'whole', '--resume', 'absent.pth'],
        'checkpoint absent.pth does not exist; give an existing path',
    ),
    'pretrained': (
        'train',
        [
            'tiny.py',
            '--data-root',
            'whole',
            '--cfg-options',
            'model.backbone.init_cfg.type=Pretrained',
            'model.backbone.init_cfg.checkpoint=absent.pth',
        ],
        'pretrained weights (model.backbone.init_cfg.checkpoint) absent.pth does not exist',
    ),
    'amp': ('train', ['tiny.py', '--data-root', 'whole', '--amp'], '--amp needs an accelerator'),
    'checkpoint': (
        'test',
        ['tiny.py', 'absent.pth', '--data-root', 'whole'],
        'checkpoint absent.pth does not exist',
    ),
    'launcher': (
        'train',
        ['tiny.py', '--data-root', 'whole', '--launcher', 'pytorch'],
        '--launcher pytorch is for programs that torchrun started',
    ),
    'folder as config': ('train', ['whole'], 'config whole is not a file'),
    'file as data root': (
        'train',
        ['tiny.py', '--data-root', 'tiny.py'],
        'data_root) tiny.py/ does not exist',
    ),
    'out': (
        'test',
        ['tiny.py', 'tiny.py', '--data-root', 'whole', '--out', 'x.json'],
        '--out x.json: the predictions of a detector go to a .pkl file',
    ),
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory, coco_root):
    folder = tmp_path_factory.mktemp('bad_input')
    (folder / 'tiny.py').write_text(DETECTOR)
    shutil.copytree(coco_root, folder / 'whole')
    shutil.copytree(coco_root, folder / 'no_json')
    shutil.copytree(coco_root, folder / 'no_val')
    shutil.rmtree(folder / 'no_json' / 'annotations')
    shutil.rmtree(folder / 'no_val' / 'val2017')
    return folder


@pytest.mark.parametrize('name', CASES)
def test_one_line(name, folder, monkeypatch):
    program, args, message = CASES[name]
    before = set(folder.rglob('*'))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, 'argv', [f'{program}.py', *args])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / 'tools' / f'{program}.py'), run_name='__main__')
    assert str(end.value).startswith(f'{program}.py: error: ')
    assert message in str(end.value) and '\n' not in str(end.value)
    assert set(folder.rglob('*')) == before


def test_the_line_goes_to_stderr(folder):
    done = train('absent.py', cwd=folder, check=False, PYTHONWARNINGS='ignore')
    assert done.returncode == 1 and not done.stdout
    assert (
        done.stderr.startswith('train.py: error: config absent.py')
        and done.stderr.count('\n') == 1
    )
