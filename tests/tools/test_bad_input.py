"""What is missing or cannot be ends with one line that names it, and with nothing written."""

import json
import os
import runpy
import shutil
import sys
import zipfile

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.tools.runs import DETECTOR, ROOT, SEGMENTOR, save_weights, train

CASES = {
    'config': ('train', ['absent.py'], 'config absent.py not found'),
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
    'amp': ('train', ['tiny.py', '--data-root', 'whole', '--amp'], '--amp requires a GPU'),
    'checkpoint': (
        'test',
        ['tiny.py', 'absent.pth', '--data-root', 'whole'],
        'checkpoint absent.pth does not exist',
    ),
    'launcher': (
        'train',
        ['tiny.py', '--data-root', 'whole', '--launcher', 'pytorch'],
        '--launcher pytorch is for scripts started by torchrun',
    ),
    'classification without mmpretrain': (
        'train',
        [str(ROOT / 'configs/imagenet_rmt_t_300e.py')],
        'imagenet_rmt_t_300e.py needs mmpretrain, which is not installed: pip install mmrest[cls]',
    ),
    'test of a classifier without mmpretrain': (
        'test',
        [str(ROOT / 'configs/imagenet_rest_lite_300e.py'), 'tiny.py'],
        'needs mmpretrain, which is not installed: pip install mmrest[cls]',
    ),
    'parts of a classifier without mmpretrain': (
        'print_config',
        ['classifier.py'],
        'classifier.py needs mmpretrain, which is not installed: pip install mmrest[cls]',
    ),
    'folder as config': ('train', ['whole'], 'config whole is a directory; pass a config file'),
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
        'rmt_s.py defines no model; pass the config of a run',
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
        "class 'lorry' of val_dataloader.dataset is not in whole/annotations",
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
        'broken_json/annotations/instances_val2017.json is no COCO JSON (JSONDecodeError',
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
        'mmdet does not support test-time augmentation (TTA) of masks; drop it',
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
        'max_epoch: ResumableEpochLoop knows no such argument; did you mean max_epochs?',
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
        'test_dataloader.shufle: DataLoader knows no such argument; did you mean shuffle?',
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
        'val_dataloader.dataset (whole/annotations/instances_val2017.json) does not have the',
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
        'in the order (person, bicycle, car), and val_dataloader.dataset the classes in the order',
    ),
    'images that are not there': (
        'train',
        ['tiny.py', '--data-root', 'no_images'],
        'no_images/train2017/000000000001.jpg (train_dataloader.dataset) does not exist; check',
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
        '--out x.json: the predictions of a detector or classifier go to a .pkl file',
    ),
}


WHOLE = ['tiny.py', '--data-root', 'whole']
OPTION = ['--cfg-options']
OUT = 'new/out.pth'
"""Where converted or published weights would go."""

CASES.update(
    {
        'annotations that are cut off': (
            'train',
            ['tiny.py', '--data-root', 'torn_json'],
            'torn_json/annotations/instances_train2017.json is no COCO JSON (JSONDecodeError',
        ),
        'annotations of another layout': (
            'train',
            ['tiny.py', '--data-root', 'list_json'],
            'is no COCO JSON (AssertionError',
        ),
        'annotations without areas': (
            'train',
            ['tiny.py', '--data-root', 'no_areas'],
            'annotation 12 has no area; add it',
        ),
        'no annotation of the classes': (
            'train',
            ['tiny.py', '--data-root', 'unannotated'],
            'train_dataloader has a data set without images: none has the size and an annotation',
        ),
        'image that is cut off': (
            'test',
            ['tiny.py', 'good.pth', '--data-root', 'torn_image'],
            'image torn_image/val2017/000000000002.jpg (test_dataloader.dataset) cannot be loaded',
        ),
        'image that is empty': (
            'train',
            ['tiny.py', '--data-root', 'empty_image'],
            'image empty_image/train2017/000000000004.jpg (train_dataloader.dataset) cannot be',
        ),
        'label map of other classes': (
            'train',
            ['tiny_seg.py', '--data-root', 'labels'],
            'label map labels/annotations/training/3.png (train_dataloader.dataset) holds 199',
        ),
        'segmentor for other classes': (
            'train',
            ['tiny_seg.py', '--data-root', 'labels', *OPTION, 'model.decode_head.num_classes=19'],
            'set model.decode_head.num_classes=150',
        ),
        'work dir below a file, in the config': (
            'train',
            [*WHOLE, '--cfg-options', 'work_dir=tiny.py/run'],
            'tiny.py is not a folder; give another --work-dir',
        ),
        'folder as pretrained weights': (
            'train',
            [*WHOLE, '--pretrained', 'whole'],
            'pretrained weights (model.backbone.init_cfg.checkpoint) whole is not a file',
        ),
        'pretrained weights of a prefix that is not there': (
            'train',
            [*WHOLE, '--pretrained', 'good.pth', *OPTION, 'model.backbone.init_cfg.prefix=trunk'],
            "good.pth holds no tensor whose name begins with 'trunk.'",
        ),
        'weights alone to resume': (
            'train',
            [*WHOLE, '--resume', 'good.pth'],
            'good.pth contains only weights, so training cannot be resumed: drop --resume',
        ),
        'folder to resume': (
            'train',
            [*WHOLE, '--resume', 'whole'],
            'checkpoint whole is not a file',
        ),
        'whole model of another arch to begin from': (
            'train',
            [*WHOLE, '--cfg-options', 'load_from=other.pth'],
            'other.pth, backbone.* for RMT does not fit: ',
        ),
        'folder as checkpoint': (
            'test',
            ['tiny.py', 'whole', '--data-root', 'whole'],
            'checkpoint whole is not a file; give an existing path',
        ),
        'backbone as checkpoint': (
            'test',
            ['tiny.py', 'backbone.pth', '--data-root', 'whole'],
            'it contains only a backbone; initialise from it with --pretrained PATH',
        ),
        'suffix of a converted file': (
            'convert_checkpoint',
            ['good.pth', 'new/out.bin'],
            'new/out.bin is not a .pth or .safetensors file',
        ),
        'converted file below a file': (
            'convert_checkpoint',
            ['good.pth', 'tiny.py/out.pth'],
            'tiny.py is not a folder; choose another',
        ),
        'nothing to convert to': (
            'convert_checkpoint',
            ['good.pth'],
            'give the name of the new file, or --list',
        ),
        'suffix of a published file': (
            'publish_model',
            ['good.pth', 'new/out'],
            'new/out is not a .pth or .safetensors file',
        ),
    }
)

LOGGED = 'logged/20260101_000000/vis_data/scalars.json'
"""Log of a run that left neither a config nor a checkpoint."""

CASES.update(
    {
        'run of the curves': (
            'analyze_logs',
            ['absent'],
            'absent does not exist; give the work dir of a run, or its scalars.json',
        ),
        'log of the curves': ('analyze_logs', ['whole'], 'whole holds no log (*/vis_data/scal'),
        'another file than a log': (
            'analyze_logs',
            ['notes.txt'],
            'notes.txt is no log: its line 1 is no JSON object',
        ),
        'key of the curves': (
            'analyze_logs',
            ['logged', '--keys', 'mAP'],
            'the log of logged has no mAP; it has lr, loss',
        ),
        'names of the curves': (
            'analyze_logs',
            ['logged', LOGGED, '--legend', 'a'],
            '--legend names 1 run(s), but there are 2',
        ),
        'suffix of the curves': (
            'analyze_logs',
            ['logged', '--out', 'new/x.bmp'],
            'new/x.bmp is not a .png or .svg or .pdf or .jpg or .csv file',
        ),
        'run of the report': ('report', ['absent'], 'absent is not a folder; give the work dir'),
        'config of the report': (
            'report',
            ['logged'],
            'logged holds no config of a run (*.py); give --config PATH',
        ),
        'one config of several': ('report', ['.'], 'choose with --config PATH'),
        'log of the report': (
            'report',
            ['whole', '--config', 'tiny.py'],
            'whole holds no log (*/vis_data/scalars.json)',
        ),
        'checkpoint of the report': (
            'report',
            ['logged', '--config', 'tiny.py'],
            'logged holds no checkpoint; give --checkpoint PATH, or --no-eval',
        ),
        'absent checkpoint of the report': (
            'report',
            ['logged', '--config', 'tiny.py', '--data-root', 'whole', '--checkpoint', 'x.pth'],
            'checkpoint x.pth does not exist',
        ),
        'checkpoint of another network, of the report': (
            'report',
            ['logged', '--config', 'tiny.py', '--data-root', 'whole', '--checkpoint', 'other.pth'],
            'of another shape',
        ),
        'data of the report': (
            'report',
            ['logged', '--config', 'tiny.py', '--checkpoint', 'good.pth', '--data-root', 'absent'],
            'absent/ does not exist; give --data-root DIR',
        ),
        'page of the report': (
            'report',
            ['logged', '--config', 'tiny.py', '--no-eval', '--out', 'new/report.pdf'],
            'new/report.pdf is not a .html or .htm file',
        ),
        'folder of the report': (
            'report',
            ['logged', '--config', 'tiny.py', '--no-eval', '--out', 'tiny.py/report.html'],
            'tiny.py is not a folder; choose another',
        ),
        'folder as a page of the report': (
            'report',
            ['logged', '--config', 'tiny.py', '--no-eval', '--out', 'folder.html'],
            'folder.html is a folder; pass a file',
        ),
        'folder as a picture of curves': (
            'analyze_logs',
            ['logged', '--out', 'x.csv', 'folder.png'],
            'folder.png is a folder; pass a file',
        ),
        'device of the report': (
            'report',
            ['logged', '--config', 'tiny.py', '--device', 'gpu'],
            '--device: device gpu cannot be used',
        ),
        'what to evaluate in the report': (
            'report',
            ['logged', '--no-eval', '--checkpoint', 'good.pth'],
            '--checkpoint is what to evaluate, and --no-eval says not to',
        ),
        'threshold of the report': (
            'report',
            ['logged', '--config', 'tiny.py', '--no-eval', '--score-thr', '-1'],
            "--score-thr: '-1' is not a number from 0 to 1",
        ),
        'threshold of the report beyond all scores': (
            'report',
            ['logged', '--config', 'tiny.py', '--no-eval', '--score-thr', '30'],
            "--score-thr: '30' is not a number from 0 to 1",
        ),
        'device of the report without values': (
            'report',
            ['logged', '--config', 'tiny.py', '--no-eval', '--device', 'meta'],
            'device meta cannot be used: it holds no values',
        ),
        'option that is half a dict': (
            'train',
            ['tiny.py', *OPTION, "visualizer.vis_backends=[{'type': 'LocalVisBackend']"],
            'is not a dict or list of dicts in Python syntax',
        ),
    }
)

NETWORK_PROGRAMS = {
    'get_flops': ([], []),
    'visualize': (['decay'], []),
    'export_onnx': ([], ['--out', 'new/x.onnx']),
}
"""Programs that take a config or the name of a network: what stands before and behind it."""

for program, (before, behind) in NETWORK_PROGRAMS.items():
    CASES[f'network of {program}'] = (
        program,
        [*before, 'rmt_x', *behind],
        'rmt_x is neither a config file nor the name of a network; the names are rest_lite,',
    )
    CASES[f'config of {program}'] = (
        program,
        [*before, 'absent.py', *behind],
        'config absent.py not found',
    )
    CASES[f'arch of {program}'] = (
        program,
        [*before, 'rmt_t', *behind, *OPTION, 'model.arch=xl'],
        "cannot be built: ValueError: arch: unknown name 'xl'",
    )

PICTURE = ['--image', 'whole/train2017/000000000001.jpg']

CLASSIFIER = str(ROOT / 'configs' / 'imagenet_rmt_t_300e.py')

for program, args in {
    'infer': [CLASSIFIER, 'good.pth', 'whole/val2017'],
    'get_flops': [CLASSIFIER],
    'browse_dataset': [CLASSIFIER, '--not-show', '--output-dir', 'new'],
    'export_onnx': [CLASSIFIER, '--out', 'new/x.onnx'],
    'visualize': ['pca', CLASSIFIER, *PICTURE],
}.items():
    CASES[f'{program} for classification without mmpretrain'] = (
        program,
        args,
        'imagenet_rmt_t_300e.py needs mmpretrain, which is not installed: pip install mmrest[cls]',
    )

CASES.update(
    {
        'size of what is counted': (
            'get_flops',
            ['rmt_t', '--shape', '1', '2', '3'],
            'argument --shape: takes a height and a width, not 3 numbers',
        ),
        'suffix of the figures': (
            'get_flops',
            ['rmt_t', '--json', 'x.txt'],
            'x.txt is not a .json file',
        ),
        'decay of ResT': (
            'visualize',
            ['decay', 'rest_lite'],
            'rest_lite has the backbone ResT; only RMT has a decay',
        ),
        'token outside of the image': (
            'visualize',
            ['decay', 'rmt_t', '--token', '224', '0'],
            '--token 224 0 lies outside of the image of 224 x 224',
        ),
        'stage to draw': (
            'visualize',
            ['attention', 'tiny.py', *PICTURE, '--stage', '5'],
            '--stage 5: tiny.py has 4 stages',
        ),
        'block to draw': (
            'visualize',
            ['attention', 'tiny.py', *PICTURE, '--block', '2'],
            '--block 2: stage 1 of tiny.py has 1 blocks',
        ),
        'head to draw': (
            'visualize',
            ['attention', 'tiny.py', *PICTURE, '--head', '2'],
            '--head 2: stage 1 of tiny.py has 1 heads; --stage chooses',
        ),
        'word for a head': (
            'visualize',
            ['attention', 'tiny.py', *PICTURE, '--head', 'first'],
            "--head: 'first' is neither a number from 1 up, mean nor all",
        ),
        'image to draw': (
            'visualize',
            ['pca', 'tiny.py', '--image', 'notes.txt'],
            'notes.txt is not an image',
        ),
        'absent image to draw': (
            'visualize',
            ['receptive-field', 'tiny.py', '--image', 'absent.jpg'],
            'image absent.jpg does not exist; give an image file',
        ),
        'noise and images to draw': (
            'visualize',
            ['receptive-field', 'tiny.py', *PICTURE, '--samples', '16'],
            'argument --samples: not allowed with argument --image',
        ),
        'torn image to draw': (
            'visualize',
            ['attention', 'tiny.py', '--image', 'torn.jpg'],
            'torn.jpg cannot be read: OSError: image file is truncated',
        ),
        'weights to draw': (
            'visualize',
            ['pca', 'tiny.py', *PICTURE, '--checkpoint', 'absent.pth'],
            'checkpoint absent.pth does not exist',
        ),
        'weights of another arch to draw': (
            'visualize',
            ['pca', 'tiny.py', *PICTURE, '--checkpoint', 'other.pth'],
            'of another shape',
        ),
        'neck of a backbone': (
            'visualize',
            ['pca', 'rmt_t', *PICTURE, '--neck'],
            '--neck: the model of rmt_t has none; leave it out',
        ),
        'suffix of a drawing': (
            'visualize',
            ['decay', 'rmt_t', '--out', 'x.gif'],
            'x.gif is not a .png or .jpg or .pdf or .svg file',
        ),
        'detector as ONNX': (
            'export_onnx',
            ['tiny.py', '--out', 'new/x.onnx'],
            'tiny.py is a MaskRCNN: backbones and segmentors with one head are exported',
        ),
        'suffix of ONNX': (
            'export_onnx',
            ['rmt_t', '--out', 'new/x.pth'],
            'new/x.pth is not a .onnx file',
        ),
        'old operators': (
            'export_onnx',
            ['rmt_t', '--out', 'new/x.onnx', '--opset', '11'],
            "--opset: '11' is not an integer of at least 18",
        ),
        'operators of the future': (
            'export_onnx',
            ['rmt_t', '--out', 'new/x.onnx', '--opset', '99'],
            '--opset: 99 is unknown to the installed onnx, which has 18 to ',
        ),
        'negative tolerance': (
            'export_onnx',
            ['rmt_t', '--out', 'new/x.onnx', '--tolerance', '-1'],
            "--tolerance: '-1' is not a number of at least 0",
        ),
        'tolerance that is no number': (
            'export_onnx',
            ['rmt_t', '--out', 'new/x.onnx', '--tolerance', 'nan'],
            "--tolerance: 'nan' is not a number of at least 0",
        ),
        'weights of another arch as ONNX': (
            'export_onnx',
            ['tiny_seg.py', 'other.pth', '--out', 'new/x.onnx'],
            'does not fit',
        ),
    }
)

UNREADABLE = {
    'absent.pth': 'checkpoint absent.pth does not exist',
    'whole': 'checkpoint whole is a directory, not a file',
    'notes.txt': 'notes.txt cannot be read as a checkpoint: it is empty, truncated or not',
    'empty.pth': 'empty.pth cannot be read as a checkpoint: it is empty, truncated or not',
    'torn.pth': 'torn.pth cannot be read as a checkpoint: it is empty, truncated or not',
    'torn.safetensors': 'torn.safetensors cannot be read as a checkpoint: it is empty',
    'bomb.pth': 'bomb.pth is refused: its ',
    'command.pth': 'command.pth is refused: it would build a ',
    'numbers.pth': 'numbers.pth holds no tensors; its entries are epoch',
}
"""Files that are no checkpoints, whichever program is given them."""

UNFIT = {
    'other.pth': 'of another shape',
    'half.pth': ' missing (',
    'transposed.pth': '1 of another shape (',
}
"""Checkpoints that do not fit the network."""

for file, message in {**UNREADABLE, **UNFIT}.items():
    if file not in ('absent.pth', 'whole'):
        CASES[f'{file} as pretrained weights'] = (
            'train',
            [*WHOLE, '--pretrained', file],
            message,
        )
        CASES[f'{file} as checkpoint'] = (
            'test',
            ['tiny.py', file, '--data-root', 'whole'],
            message,
        )
for file, message in UNREADABLE.items():
    CASES[f'{file} to convert'] = ('convert_checkpoint', [file, OUT, '--backbone'], message)
    CASES[f'{file} to publish'] = ('publish_model', [file, OUT], message)
for file in ('half.pth', 'transposed.pth'):
    CASES[f'{file} to convert'] = (
        'convert_checkpoint',
        [file, OUT],
        f'{file} fits none of the networks that mmrest knows by a name',
    )

GOOD = ['tiny.py', 'good.pth', 'whole/val2017']
for case, options, message in [
    ('input', ['tiny.py', 'good.pth', 'absent.jpg'], 'input absent.jpg does not exist; give'),
    ('pattern', ['tiny.py', 'good.pth', 'x/*.jpg'], 'no file matches x/*.jpg; give another'),
    ('folder', ['tiny.py', 'good.pth', 'no_images/train2017'], 'train2017 holds no file; give'),
    ('checkpoint', ['tiny.py', 'absent.pth', 'whole'], 'checkpoint absent.pth does not exist'),
    ('backbone', ['tiny.py', 'backbone.pth', 'whole'], 'it contains only a backbone'),
    ('weights that do not fit', ['tiny.py', 'other.pth', 'whole'], 'of another shape'),
    ('pickle', ['tiny.py', 'command.pth', 'whole'], 'command.pth is refused'),
    ('config', ['broken.py', 'good.pth', 'whole'], 'config broken.py cannot be read'),
    ('device', [*GOOD, '--device', 'cuda:99'], 'device cuda:99 cannot be used'),
    ('device without values', [*GOOD, '--device', 'meta'], 'device meta cannot be used: it hol'),
    ('batch size', [*GOOD, '--batch-size', '0'], "'0' is not an integer of at least 1"),
    ('threshold', [*GOOD, '--score-thr', '30'], "'30' is not a number from 0 to 1"),
    ('file as folder', [*GOOD, '--out-dir', 'tiny.py'], 'tiny.py is not a folder'),
    ('augmented masks', [*GOOD, '--tta'], 'does not support test-time augmentation'),
    ('nothing to write', [*GOOD, '--no-save-vis', '--no-save-pred'], 'leave nothing to do'),
    ('option', [*GOOD, '--cfg-options', 'modle.x=1'], 'the config has no modle; did you mean'),
]:
    CASES[f'{case} of inference'] = ('infer', options, message)


class Command:
    """A pickle of it runs a command, which would leave a file."""

    def __reduce__(self):
        return os.system, ('touch witness',)


def spoil_data(folder, coco_root, ade_root):
    """Folders of data, each with a fault of its own."""
    for name in ('torn_json', 'list_json', 'no_areas', 'unannotated', 'torn_image', 'empty_image'):
        shutil.copytree(coco_root, folder / name)
    shutil.copytree(ade_root, folder / 'labels')
    json_of = 'annotations/instances_train2017.json'
    text = (coco_root / json_of).read_text()
    (folder / 'torn_json' / json_of).write_text(text[: len(text) // 2])
    (folder / 'list_json' / json_of).write_text('[1]')
    content = json.loads(text)
    (folder / 'unannotated' / json_of).write_text(json.dumps(dict(content, annotations=[])))
    del content['annotations'][-1]['area']
    (folder / 'no_areas' / json_of).write_text(json.dumps(content))
    image = folder / 'torn_image' / 'val2017' / '000000000002.jpg'
    image.write_bytes(image.read_bytes()[:50])
    (folder / 'empty_image' / 'train2017' / '000000000004.jpg').write_bytes(b'')
    cv2.imwrite(
        str(folder / 'labels/annotations/training/3.png'), np.full((60, 80), 200, np.uint8)
    )


def spoil_weights(folder):
    """Files of weights, of which good.pth and backbone.pth alone fit tiny.py."""
    save_weights(folder / 'good.pth', folder / 'tiny.py')
    state = torch.load(folder / 'good.pth')['state_dict']
    backbone = {n[len('backbone.') :]: t for n, t in state.items() if n.startswith('backbone.')}
    torch.save(backbone, folder / 'backbone.pth')
    of_backbone = [name for name in state if name.startswith('backbone.')]
    half = {n: t for n, t in state.items() if n not in of_backbone[::2]}
    torch.save({'state_dict': half}, folder / 'half.pth')
    matrix = next(n for n in of_backbone if state[n].ndim == 2 and len(set(state[n].shape)) == 2)
    torch.save({**state, matrix: state[matrix].T}, folder / 'transposed.pth')
    wider = {
        n: torch.ones(2 * t.shape[0], *t.shape[1:]) if t.ndim else t for n, t in state.items()
    }
    torch.save(wider, folder / 'other.pth')
    content = (folder / 'good.pth').read_bytes()
    (folder / 'torn.pth').write_bytes(content[: len(content) // 2])
    save_file(backbone, folder / 'torn.safetensors')
    content = (folder / 'torn.safetensors').read_bytes()
    (folder / 'torn.safetensors').write_bytes(content[: len(content) // 2])
    (folder / 'empty.pth').touch()
    torch.save({'epoch': 3}, folder / 'numbers.pth')
    torch.save({'state_dict': backbone, 'args': Command()}, folder / 'command.pth')
    with zipfile.ZipFile(folder / 'backbone.pth') as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(folder / 'bomb.pth', 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content + bytes(10**5))


@pytest.fixture(scope='module')
def folder(tmp_path_factory, coco_root, ade_root):
    folder = tmp_path_factory.mktemp('bad_input')
    (folder / 'tiny.py').write_text(DETECTOR)
    (folder / 'tiny_seg.py').write_text(SEGMENTOR)
    spoil_data(folder, coco_root, ade_root)
    spoil_weights(folder)
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
    (folder / 'classifier.py').write_text(
        "custom_imports = dict(imports=['mmrest.classification'], allow_failed_imports=False)\n"
    )
    (folder / 'notes.txt').write_text('model')
    picture = (coco_root / 'train2017' / '000000000001.jpg').read_bytes()
    (folder / 'torn.jpg').write_bytes(picture[: len(picture) // 2])
    (folder / 'folder.html').mkdir()
    (folder / 'folder.png').mkdir()
    (folder / LOGGED).parent.mkdir(parents=True)
    (folder / LOGGED).write_text('{"lr": 0.1, "loss": 2.0, "iter": 1, "step": 1}\n')
    shutil.rmtree(folder / 'no_json' / 'annotations')
    shutil.rmtree(folder / 'no_val' / 'val2017')
    return folder


def written(folder):
    """Every path with its size and the time of its last change."""
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob('*')}


class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == 'mmpretrain':
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)


def hide_mmpretrain(monkeypatch):
    """Have it look as if it were not installed, nor what needs it imported."""
    for name in list(sys.modules):
        if name.startswith(('mmrest.classification', 'mmpretrain')):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, 'meta_path', [Absent(), *sys.meta_path])


@pytest.mark.parametrize('name', CASES)
def test_one_line(name, folder, monkeypatch, capsys):
    program, args, message = CASES[name]
    before = written(folder)
    monkeypatch.chdir(folder)
    monkeypatch.delenv('DISPLAY', raising=False)
    if 'without mmpretrain' in name:
        hide_mmpretrain(monkeypatch)
    monkeypatch.setattr(sys, 'argv', [f'{program}.py', *args])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / 'tools' / f'{program}.py'), run_name='__main__')
    # Python prints a text that a program exits with and takes 1 for its status.
    line = capsys.readouterr().err.strip() if end.value.code == 2 else end.value.code
    assert line.startswith(f'{program}.py: error: ')
    assert message in line and '\n' not in line
    assert written(folder) == before


def test_the_line_goes_to_stderr(folder):
    done = train('absent.py', cwd=folder, check=False, PYTHONWARNINGS='ignore')
    assert done.returncode == 1 and not done.stdout
    assert (
        done.stderr.startswith('train.py: error: config absent.py')
        and done.stderr.count('\n') == 1
    )
