"""Bad input ends every command with one line that names it, and nothing is written.

What the pre-flight finds in data, annotations and configs is in tests/preflight; here are a few of
its faults, and what each command checks by itself.
"""

import os
import shlex
import shutil
import sys

import pytest
import torch
import torch.utils.cpp_extension  # logs at its import if it finds no GPU

from tests.reporting.test_logs import write_log
from tests.runs import DETECTOR, SEGMENTOR, lay_out, run_here
from tests.torch_versions import needs_onnx

TRAIN = 'train tiny.py --data-root coco'
SET = '--cfg-options'
RUN = f'{TRAIN} --work-dir ../run {SET}'
ROI_HEAD = 'model.roi_head'
VAL_CLASSES = 'val_dataloader.dataset.metainfo.classes'
TEST = 'test tiny.py tiny.pth --data-root coco'
REPORT = 'report logged --config tiny.py'
EVALUATION = f'{REPORT} --data-root coco --checkpoint absent.pth'
TTA = f'test tiny_seg.py tiny_seg.pth --tta {SET}'
INFER = 'infer tiny.py tiny.pth'
IMAGE = '--image coco/train2017/000000000001.jpg'
ATTENTION = f'visualize attention tiny.py {IMAGE}'
EXPORT = f'export_onnx tiny.py --out x.onnx {SET}'
LONG = f'{"x" * 251}.avi'

CASES = {
    # Configs, and what the command line changes in them.
    'train absent.py': 'config absent.py not found',
    'train broken.py': 'config broken.py cannot be read: SyntaxError',
    'train child.py': 'broken.py (for child.py) cannot be read: SyntaxError',
    'train no_base.py': "rmt_s_3.py'; did you mean maskrcnn_rmt_s_3x?",
    'train typo.py': "config typo.py cannot be read: NameError: name 'dcit' is not defined",
    'train lazy.py': "lazy.py cannot be read: ModuleNotFoundError: No module named 'absent'",
    'train lazy_hook.py': "in lazy_hook.py, line 1 for No module named 'absent'; install it",
    'train notes.txt': 'config notes.txt cannot be read: ',
    'train part.py': 'part.py defines no model',
    f'train tiny.py {SET} batch_size': "'batch_size' is not of the form KEY=VALUE",
    f'train tiny.py {SET} param_scheduler.7.end=3': 'param_scheduler.7.end=3 does not fit',
    f'train tiny.py {SET} optim_wraper.optimizer.lr=1': 'did you mean optim_wrapper?',
    f"train tiny.py {SET} \"custom_hooks=[{{'type': 'X']\"": 'is not a dict or list of dicts',
    'train tiny.py --amp-dtype bfloat16': '--amp-dtype bfloat16 needs --amp',
    'train tiny.py --amp': '--amp requires a GPU, but none is available',
    'train tiny_seg.py --auto-scale-lr': 'needs auto_scale_lr.base_batch_size in the config; set ',
    f'train tiny.py --auto-scale-lr {SET} auto_scale_lr=None': 'needs auto_scale_lr.base_batch',
    f'train tiny.py --pretrained x.pth {SET} model.backbone=None': 'needs a model with a backbone',
    # What the parts of a run need.
    'train tiny.py --data-root "it\'s"': "train_dataloader cannot be built: it's/annotations/",
    'train tiny_seg.py --data-root no_ade': 'ade/images/training not found; check --data-root DIR',
    'train tiny.py --data-root torn_json': 'is not a valid COCO annotation file: JSON',
    f'{TRAIN} --work-dir tiny.py/run': '--work-dir: tiny.py is not a folder',
    f'{TRAIN} {SET} work_dir=tiny.py/run': 'tiny.py is not a folder',
    f'{TRAIN} {SET} model.backbone.arch=xl': "ValueError: arch: unknown name 'xl'",
    f'{TRAIN} {SET} model.backbone.init_cfg=x.pth': 'init_cfg must be a dict such as',
    f'{TRAIN} {SET} train_dataloader=None': 'train_dataloader must be a dict, got None',
    f'{TRAIN} {SET} randomness.seed=abc': "randomness={'seed': 'abc'} cannot be used",
    f'{TRAIN} {SET} {VAL_CLASSES}=person,bicycle,lorry': 'names must match exactly',
    f'{TRAIN} {SET} {VAL_CLASSES}=person': "is the string 'person', but must be a list of names",
    f'{TRAIN} {SET} {ROI_HEAD}.bbox_head.num_classes=80': 'num_classes is 80, but train_data',
    f'{TRAIN} --launcher pytorch': '--launcher pytorch is for ',
    # What a run builds last, when it has a work dir.
    f'{RUN} default_hooks.logger.intervall=3': "unexpected keyword argument 'intervall'",
    f'{TRAIN} {SET} param_scheduler.1.gama=1': 'param_scheduler cannot be built: TypeError: ',
    f"{RUN} custom_hooks=\"[{{'typ':'EMAHook'}}]\"": 'must contain the key "type", but got {',
    f'{TEST} --out x.pkl {SET} test_evaluator.type=MultiDatasetsEvaluator': (
        '--out does not support MultiDatasetsEvaluator; test each dataset'
    ),
    f'{RUN} val_cfg.type=ValLop': 'the run cannot be set up: KeyError: ValLop is not in the ',
    f'{RUN} model.neck.in_channels="[8,16,24]"': 'the first step of training fails in neck (',
    f'{RUN} model.neck.in_channels="[8,16,24,9]"': 'channels instead; set in_channels of the neck',
    f'{RUN} train_cfg.val_intervall=2': "unexpected keyword argument 'val_intervall'",
    # Weights.
    f'{TRAIN} --resume absent.pth': 'checkpoint absent.pth ',
    f'{TRAIN} --resume coco': 'checkpoint coco is a directory, not a file',
    f'{TRAIN} --resume {SET} load_from=absent.pth': 'checkpoint absent.pth does not exist',
    f'{TRAIN} --resume tiny.pth': 'drop --resume',
    f'{TRAIN} --resume config.pth': 'config.pth for MaskRCNN does not match',
    f'{TRAIN} --pretrained half.pth': ' missing (',
    f'{TRAIN} --pretrained transposed.pth': '1 of another shape (',
    f'{TRAIN} --pretrained torn.pth': 'torn.pth cannot be read as a checkpoint',
    f'{TRAIN} --pretrained tiny.pth {SET} model.backbone.init_cfg.prefix=trunk': "with 'trunk.'",
    f'{TRAIN} {SET} load_from=other.pth': 'backbone.* for RMT does not match the model: ',
    # Tests.
    'test tiny.py absent.pth --data-root coco': 'checkpoint absent.pth ',
    'test tiny.py other.pth --data-root coco': 'of another shape',
    'test tiny.py backbone.pth --data-root coco': '--pretrained PATH',
    f'{TEST} {SET} test_dataloader.shufle=1': "argument 'shufle'",
    f'{TEST} --tta': 'does not support test-time augmentation',
    f'{TEST} --show': 'no display (DISPLAY is not set); save',
    f'{TEST} --out x.json': 'x.json is not a .pkl or .pickle file',
    f'{TEST} --out tiny.py/x.pkl': 'tiny.py is not a folder',
    'test tiny.py tiny.pth --wait-time 1': '--wait-time needs --show',
    # Files of weights, converted and published.
    'convert_checkpoint tiny.pth new/x.bin': 'new/x.bin is not a .pth or .safetensors file',
    'convert_checkpoint tiny.pth': 'pass an output file, or --list',
    'convert_checkpoint half.pth new/x.pth': 'half.pth does not match any network of mmrest: ',
    # Inference.
    f'{INFER} absent.jpg': 'input absent.jpg ',
    f'{INFER} x/*.jpg': 'input x/*.jpg not found',
    f'{INFER} coco {SET} test_dataloader.dataset.pipeline.1.type=Resise': 'Resise is not in the ',
    f'{INFER} coco {SET} test_dataloader.dataset.pipeline.0.type=Resize': 'needs LoadImageFrom',
    f'{INFER} coco {SET} test_dataloader=None': 'tiny.py has no test_dataloader.dataset.pipeline',
    f'{INFER} coco {SET} test_dataloader.dataset.metainfo.classes=car': "is the string 'car'",
    f'{INFER} coco {SET} test_dataloader.dataset.metainfo.classes=[car]': (
        'num_classes is 3, but checkpoint and config name 1 classes'
    ),
    f'{INFER} coco --device cuda:99': 'device cuda:99 cannot be used',
    f'{INFER} coco --device meta': 'device meta cannot be used: it hol',
    f'{INFER} coco --score-thr 30': "'30' is not a number from 0 to 1",
    f'{INFER} coco --tta': 'does not support test-time augmentation',
    f'{INFER} coco --no-save-vis --no-save-pred': 'leave nothing to do',
    f'infer tiny_seg.py tiny_seg.pth {LONG}': 'x.frames is too long for a file; rename the input',
    # Curves and reports.
    'analyze_logs absent': 'absent ',
    'analyze_logs coco': 'coco contains no log (*/vis_data/scal',
    'analyze_logs notes.txt': 'notes.txt is not a log: line 1 is not a JSON object',
    'analyze_logs logged --keys mAP': 'the log of logged has no mAP; it has lr, loss',
    'analyze_logs logged logged --legend a': '--legend names 1 run(s), but there are 2',
    'analyze_logs logged --out new/x.bmp': 'new/x.bmp is not a .png or .svg or ',
    'analyze_logs logged --out folder.png': 'folder.png is a folder',
    'report absent': 'absent is not a directory',
    'report logged': 'logged contains no config of a run (*.py)',
    'report .': 'pass --config PATH',
    REPORT: 'logged contains no checkpoint',
    f'{REPORT} --data-root absent --checkpoint tiny.pth': 'absent/annotations/',
    f'{EVALUATION} {SET} val_evaluator=None': 'belong together; set val_evaluator too',
    f'{EVALUATION} {SET} val_dataloader=None test_dataloader=None': 'evaluate on; pass --no-eval',
    'report logged --config demo_cls_rmt_t --checkpoint absent.pth': 'is the config of a classif',
    f'{REPORT} --device gpu': '--device: device gpu cannot be used',
    f'{REPORT} --no-eval --checkpoint tiny.pth': '--checkpoint has no effect with --no-eval',
    # Networks: analysis and export.
    'get_flops rmt_x': 'rmt_x is not a config or a backbone',
    'get_flops rmt_t --shape 1 2 3': '--shape: takes a height and a width, not 3 numbers',
    f'visualize decay rmt_t {SET} model.arch=xl': "ValueError: arch: unknown name 'xl'",
    'visualize decay rest_lite': 'the backbone of rest_lite is a ResT; decay needs RMT',
    'visualize decay rmt_t --token 224 0': '--token 224 0 is outside the image',
    f'{ATTENTION} --stage 5': '--stage 5: tiny.py has 4 stages',
    f'{ATTENTION} --block 2': '--block 2: stage 1 of tiny.py has 1 blocks',
    f'{ATTENTION} --head 2': '--head 2: stage 1 of tiny.py has 1 heads',
    f'{ATTENTION} --head first': "--head: 'first' is not a number",
    'visualize pca tiny.py --image notes.txt': 'notes.txt is not an image',
    'visualize pca tiny.py --image absent.jpg': 'image absent.jpg ',
    'visualize pca tiny.py --image torn.jpg': 'torn.jpg cannot be read: OSError',
    'visualize pca tiny.py --image torn.jpg --out torn.jpg': 'torn.jpg is an input and would be ',
    f'visualize pca odd.py --neck --size 161 193 {IMAGE}': 'odd.py fails: RuntimeError: Sizes of',
    f'visualize receptive-field tiny.py {IMAGE} --samples 2': '--samples: not allowed with',
    f'visualize pca tiny.py {IMAGE} {SET} model.backbone.in_channels=4': 'of 4 channels; pca',
    f'visualize pca demo_cls_rest_lite {IMAGE} --neck': 'the neck of demo_cls_rest_lite returns',
    f'visualize pca rmt_t {IMAGE} --neck': '--neck: the model of rmt_t has no neck',
    f'{EXPORT} model.test_cfg.rcnn.nms.type=soft_nms': 'py: NMS as ',
    f'{EXPORT} model.test_cfg.rpn.nms_pre=0': 'without test_cfg.nms_pre cannot be exported; ',
    f'{EXPORT} model.rpn_head=None': 'a MaskRCNN without an RPN cannot be exported; ',
    f'export_onnx rmt_t --out new/x.onnx {SET} model.in_channels=4': 'of 4 channels; export ',
    'export_onnx rmt_t --out new/x.onnx --opset 99': '--opset: 99 is not supported by the',
    'export_onnx rmt_t --out new/x.onnx --tolerance nan': "'nan' is not a number of at least 0",
    'benchmark networks rmt_x': "unknown network 'rmt_x'; choose from",
    'benchmark networks --sizes 800': "'800' is not of the form HEIGHTxWIDTH",
    'benchmark networks --with-cp': '--with-cp needs --train',
    'benchmark networks --device cuda': 'no GPU found; use --device cpu',
    'benchmark checkpoints tiny.py': "'tiny.py' is not of the form CONFIG=CHECKPOINT",
    'benchmark checkpoints retinanet_rmt_t_1x=absent.pth': 'checkpoint absent.pth not found',
    # The rest.
    'browse_dataset maskrcnn_rmt_t_1x --not-show': 'nothing to do; pass --output-dir DIR',
    'browse_dataset maskrcnn_rmt_t_1x': 'no display (DISPLAY is not set)',
    'browse_dataset maskrcnn_rmt_t_1x --not-show --output-dir x': 'check --data-root DIR',
    f"{TTA} \"test_dataloader.dataset={{'_delete_':1,'type':'RepeatDataset'}}\"": 'which RepeatD',
    f'{TTA} test_dataloader=None': 'which this config does not have',
    'demo --resume --work-dir new': 'new has no checkpoint of a demo; drop --resume',
    'demo classification': "invalid choice: 'classification'",
    'make_shapes tiny.py': 'tiny.py is not a folder',
    'make_shapes shapes --height high': "--height: 'high' is not an integer of at least 32",
}


INIT = 'model.backbone.init_cfg'
READERS = [
    f'{TRAIN} {SET} {INIT}.type=Pretrained {INIT}.checkpoint=command.pth',
    f'{TRAIN} --pretrained command.pth',
    f'{TRAIN} {SET} load_from=command.pth',
    f'{TRAIN} --resume command.pth',
    'test tiny.py command.pth --data-root coco',
    'infer tiny.py command.pth coco',
    f'{REPORT} --data-root coco --checkpoint command.pth',
    f'visualize pca tiny.py {IMAGE} --checkpoint command.pth',
    'export_onnx tiny_seg.py command.pth --out new/x.onnx',
    'convert_checkpoint command.pth new/x.pth',
    'publish_model command.pth new/x.pth',
]
"""Every command that reads a weights file."""


class Command:
    """Object whose pickle executes a command that creates a file."""

    def __reduce__(self):
        return os.system, ('touch witness',)


def spoiled_weights(folder):
    """Weights files; only tiny.pth and backbone.pth match tiny.py."""
    state = torch.load(folder / 'tiny.pth')['state_dict']
    of_backbone = [name for name in state if name.startswith('backbone.')]
    backbone = {name[len('backbone.') :]: state[name] for name in of_backbone}
    matrix = next(n for n in of_backbone if state[n].ndim == 2 and len(set(state[n].shape)) == 2)
    saved = {
        'backbone': backbone,
        'half': {'state_dict': {n: t for n, t in state.items() if n not in of_backbone[::2]}},
        'transposed': {**state, matrix: state[matrix].T},
        'other': {n: torch.cat([t, t]) if t.ndim else t for n, t in state.items()},
        'command': {'state_dict': state, 'meta': {'hook_msgs': Command()}},
        # mmengine runs the text of a config in a checkpoint that it resumes.
        'config': {
            'state_dict': {'a': torch.ones(1)},
            'meta': {'config': "import os\nos.mkdir('witness')\n", 'epoch': 1, 'iter': 2},
        },
    }
    for name, content in saved.items():
        torch.save(content, folder / f'{name}.pth')
    shutil.copy(folder / 'tiny.pth', folder / 'torn.pth')
    os.truncate(folder / 'torn.pth', (folder / 'torn.pth').stat().st_size // 2)


@pytest.fixture(scope='module')
def folder(tmp_path_factory, coco_root, ade_root):
    folder = lay_out(tmp_path_factory.mktemp('bad_input'), tiny=DETECTOR, tiny_seg=SEGMENTOR)
    spoiled_weights(folder)
    for name in ('coco', 'torn_json'):
        shutil.copytree(coco_root, folder / name)
    shutil.copytree(ade_root, folder / 'no_ade')
    shutil.rmtree(folder / 'no_ade' / 'images' / 'training')
    os.truncate(folder / 'torn_json' / 'annotations' / 'instances_train2017.json', 1000)
    shutil.copy(coco_root / 'train2017' / '000000000001.jpg', folder / 'torn.jpg')
    os.truncate(folder / 'torn.jpg', 1000)
    (folder / 'broken.py').write_text('model = dict(')
    (folder / 'typo.py').write_text('model = dcit()')
    (folder / 'child.py').write_text("_base_ = './broken.py'")
    (folder / 'no_base.py').write_text("_base_ = 'mmrest::maskrcnn_rmt_s_3.py'")
    (folder / 'odd.py').write_text("_base_ = 'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py'")
    (folder / 'part.py').write_text('backbone = dict()')
    (folder / 'classifier.py').write_text(
        "custom_imports = dict(imports=['mmrest.classification'], allow_failed_imports=False)\n"
    )
    (folder / 'lazy.py').write_text('from absent import Net\nmodel = dict(type=Net)')
    (folder / 'lazy_hook.py').write_text(
        'from absent import Hook\ncustom_hooks = [dict(type=Hook)]\nmodel = dict()\n'
        'train_dataloader = train_cfg = optim_wrapper = dict()'
    )
    (folder / 'notes.txt').write_text('model')
    (folder / LONG).touch()
    (folder / 'folder.png').mkdir()
    write_log(folder / 'logged', '20260101_000000', dict(lr=0.1, loss=2.0, iter=1, step=1))
    return folder


def written(folder):
    """Every path with its size and the time of its last change."""
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob('*')}


@pytest.fixture
def line_of(folder, monkeypatch, capsys):
    """Return a function that runs a command and returns its error line."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv('DISPLAY', raising=False)
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    monkeypatch.setattr('mmengine.device.utils.DEVICE', 'cpu')

    def line_of(command):
        program, *args = shlex.split(command)
        before = written(folder)
        status = run_here(program, *args)
        # Python prints a text that a command exits with and takes 1 for its status.
        line = capsys.readouterr().err.strip() if status == 2 else status
        assert line.startswith(f'{program}.py: error: ') and '\n' not in line
        assert written(folder) == before
        return line

    return line_of


def commands(listed):
    """Commands as parameters; exports need a recent torch."""
    return pytest.mark.parametrize('command', [
        pytest.param(each, marks=needs_onnx) if each.startswith('export') else each
        for each in listed
    ])  # fmt: skip


@commands(CASES)
def test_one_line(command, line_of):
    assert CASES[command] in line_of(command)


@commands(READERS)
def test_no_code_of_a_checkpoint_is_executed(command, line_of):
    assert 'refusing to load command.pth: it contains a pickled ' in line_of(command)


class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == 'mmpretrain':
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)


@pytest.mark.parametrize('command', ['train imagenet_rmt_t_300e', 'print_config classifier.py'])
def test_a_classifier_without_mmpretrain(command, line_of, monkeypatch):
    for name in list(sys.modules):
        if name.startswith(('mmrest.classification', 'mmpretrain')):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, 'meta_path', [Absent(), *sys.meta_path])
    hint = 'needs mmpretrain, which is not installed: pip install mmrest[cls]'
    assert hint in line_of(command)
