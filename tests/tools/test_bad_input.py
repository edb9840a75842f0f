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
    'config that is not Python': (
        'train',
        ['broken.py'],
        'config broken.py cannot be read: SyntaxError',
    ),
    'config of another kind': ('train', ['notes.txt'], 'config notes.txt cannot be read: '),
    'part of a config': (
        'train',
        [str(ROOT / 'configs/_base_/backbones/rmt_s.py')],
        'rmt_s.py defines no model; give the config of a run',
    ),
    'option beyond a list': (
        'train',
        ['tiny.py', '--cfg-options', 'param_scheduler.7.end=3'],
        '--cfg-options param_scheduler.7.end=3 does not fit the config',
    ),
    'arch': (
        'train',
        ['tiny.py', '--data-root', 'whole', '--cfg-options', 'model.backbone.arch=xl'],
        "cannot be built: ValueError: arch: unknown name 'xl'; choose one of 't', 's', 'b', 'l'",
    ),
    'argument of the backbone': (
        'train',
        ['tiny.py', '--data-root', 'whole', '--cfg-options', 'model.backbone.frozen_stage=1'],
        "unexpected keyword argument 'frozen_stage'",
    ),
    'outputs': (
        'test',
        [
            'tiny.py',
            'tiny.py',
            '--data-root',
            'whole',
            '--cfg-options',
            'model.backbone.out_indices=(0,9)',
        ],
        'out_indices must be an ascending, non-empty choice of (0, 1, 2, 3), got (0, 9)',
    ),
    'type': (
        'train',
        ['tiny.py', '--data-root', 'whole', '--cfg-options', 'model.backbone.type=RTM'],
        'cannot be built: KeyError',
    ),
    'class list that is a string': (
        'train',
        [
            'tiny.py',
            '--data-root',
            'whole',
            '--cfg-options',
            'train_dataloader.dataset.metainfo.classes=car',
        ],
        "metainfo.classes is the string 'car', where a list of names belongs",
    ),
    'class that the data lacks': (
        'train',
        [
            'tiny.py',
            '--data-root',
            'whole',
            '--cfg-options',
            'val_dataloader.dataset.metainfo.classes=person,bicycle,lorry',
        ],
        "class 'lorry' of val_dataloader.dataset.metainfo.classes is not in whole/annotations",
    ),
    'head for another number of classes': (
        'train',
        [
            'tiny.py',
            '--data-root',
            'whole',
            '--cfg-options',
            'model.roi_head.mask_head.num_classes=80',
        ],
        'set model.roi_head.mask_head.num_classes=3',
    ),
    'annotations that are no JSON': (
        'test',
        ['tiny.py', 'tiny.py', '--data-root', 'broken_json'],
        'instances_val2017.json (test_dataloader.dataset.ann_file) is no COCO JSON',
    ),
    'option without a value': (
        'train',
        ['tiny.py', '--cfg-options', 'batch_size'],
        "'batch_size' is not of the form KEY=VALUE",
    ),
    'file as work dir': (
        'train',
        ['tiny.py', '--data-root', 'whole', '--work-dir', 'tiny.py/run'],
        '--work-dir: tiny.py is not a folder; choose another',
    ),
    'file as folder of the demo': (
        'demo',
        ['--work-dir', 'tiny.py'],
        '--work-dir: tiny.py is not a folder; choose another',
    ),
    'file as folder of shapes': ('make_shapes', ['tiny.py'], 'tiny.py is not a folder'),
    'number of shapes': (
        'make_shapes',
        ['shapes', '--train', '-3'],
        "--train: '-3' is not an integer of at least 1",
    ),
    'size of shapes': (
        'make_shapes',
        ['shapes', '--height', 'high'],
        "--height: 'high' is not an integer of at least 32",
    ),
    'pretrained option': (
        'train',
        ['tiny.py', '--cfg-options', 'model.pretrained=RMT-S.pth'],
        'model.pretrained=RMT-S.pth would be ignored: tools/train.py --pretrained RMT-S.pth',
    ),
    'pretrained weights': (
        'train',
        ['tiny.py', '--data-root', 'whole', '--pretrained', 'absent.pth'],
        'pretrained weights (model.backbone.init_cfg.checkpoint) absent.pth does not exist',
    ),
    'type of automatic mixed precision': (
        'train',
        ['tiny.py', '--amp', '--amp-dtype', 'fp8'],
        "--amp-dtype: invalid choice: 'fp8'",
    ),
    'augmentation of masks': (
        'test',
        ['tiny.py', 'tiny.py', '--data-root', 'whole', '--tta'],
        '--tta: mmdet offers no test-time augmentation for masks',
    ),
    'pair of the benchmark': ('benchmark_zoo', ['tiny.py'], "'tiny.py' is not of the form"),
    'checkpoint of the benchmark': (
        'benchmark_zoo',
        ['tiny.py=absent.pth'],
        'absent.pth (of tiny.py=absent.pth) is not a file',
    ),
    'argument of the loop': (
        'train',
        ['tiny.py', '--data-root', 'whole', '--cfg-options', 'train_cfg.max_epoch=1'],
        'max_epoch: EpochBasedTrainLoop knows no such argument; did you mean max_epochs?',
    ),
    'argument of the data set': (
        'train',
        ['tiny.py', '--data-root', 'whole', '--cfg-options', 'train_dataloader.dataset.indeces=4'],
        'indeces: CocoDataset knows no such argument; did you mean indices?',
    ),
    'argument of the loader': (
        'test',
        [
            'tiny.py',
            'tiny.py',
            '--data-root',
            'whole',
            '--cfg-options',
            'test_dataloader.shufle=1',
        ],
        'test_dataloader.shufle: test_dataloader knows no such argument; did you mean shuffle?',
    ),
    'argument of the optimizer': (
        'train',
        ['tiny.py', '--data-root', 'whole', '--cfg-options', 'optim_wrapper.optimizer.lrr=1'],
        'optim_wrapper.optimizer.lrr: AdamW knows no such argument; did you mean lr?',
    ),
    'argument of a hook': (
        'train',
        [
            'tiny.py',
            '--data-root',
            'whole',
            '--cfg-options',
            'default_hooks.logger.intervall=1',
        ],
        'LoggerHook knows no such argument; did you mean interval?',
    ),
    'classes of evaluation': (
        'train',
        ['no_val_classes.py', '--data-root', 'whole'],
        'val_dataloader.dataset.metainfo states no classes, but train_dataloader.dataset.metainfo',
    ),
    'order of the classes': (
        'train',
        [
            'tiny.py',
            '--data-root',
            'whole',
            '--cfg-options',
            'val_dataloader.dataset.metainfo.classes=person,car,bicycle',
        ],
        "states ('person', 'car', 'bicycle'), but",
    ),
    'images that are not there': (
        'train',
        ['tiny.py', '--data-root', 'no_images'],
        'no_images/train2017/000000000001.jpg does not exist; check train_dataloader.dataset',
    ),
    'text as pretrained weights': (
        'train',
        ['tiny.py', '--data-root', 'whole', '--pretrained', 'notes.txt'],
        'notes.txt',
    ),
    'no screen': (
        'test',
        ['tiny.py', 'tiny.py', '--data-root', 'whole', '--show'],
        '--show needs a screen and DISPLAY names none; --show-dir DIR draws files',
    ),
    'option that nothing reads': (
        'train',
        ['tiny.py', '--cfg-options', 'optim_wraper.optimizer.lr=1'],
        '--cfg-options optim_wraper.optimizer.lr: the config has no optim_wraper; '
        'did you mean optim_wrapper?',
    ),
    'unknown option': ('train', ['tiny.py', '--amps'], 'unrecognized arguments: --amps'),
    'unknown choice': (
        'test',
        ['tiny.py', 'x.pth', '--launcher', 'k8s'],
        "--launcher: invalid choice: 'k8s'",
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
    shutil.copytree(coco_root, folder / 'broken_json')
    shutil.copytree(coco_root, folder / 'no_images')
    for path in (folder / 'no_images' / 'train2017').iterdir():
        path.unlink()
    (folder / 'no_val_classes.py').write_text(
        f"{DETECTOR}\nval_dataloader['dataset'].pop('metainfo')\n"
    )
    (folder / 'broken_json' / 'annotations' / 'instances_val2017.json').write_text('{')
    (folder / 'broken.py').write_text('model = dict(')
    (folder / 'notes.txt').write_text('model')
    shutil.rmtree(folder / 'no_json' / 'annotations')
    shutil.rmtree(folder / 'no_val' / 'val2017')
    return folder


@pytest.mark.parametrize('name', CASES)
def test_one_line(name, folder, monkeypatch, capsys):
    program, args, message = CASES[name]
    before = set(folder.rglob('*'))
    monkeypatch.chdir(folder)
    monkeypatch.delenv('DISPLAY', raising=False)
    monkeypatch.setattr(sys, 'argv', [f'{program}.py', *args])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / 'tools' / f'{program}.py'), run_name='__main__')
    # Python prints a text that a program exits with and takes 1 for its status.
    line = capsys.readouterr().err.strip() if end.value.code == 2 else end.value.code
    assert line.startswith(f'{program}.py: error: ')
    assert message in line and '\n' not in line
    assert set(folder.rglob('*')) == before


def test_the_line_goes_to_stderr(folder):
    done = train('absent.py', cwd=folder, check=False, PYTHONWARNINGS='ignore')
    assert done.returncode == 1 and not done.stdout
    assert (
        done.stderr.startswith('train.py: error: config absent.py')
        and done.stderr.count('\n') == 1
    )
