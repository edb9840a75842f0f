"""Options of the programs that change a config."""

import logging
from importlib import import_module

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmrest.cli.command import Parser, add_config_arguments
from mmrest.engine.config import load_config
from mmrest.engine.errors import UsageError
from mmrest.preflight.names import check_names
from tests.tools.runs import ROOT, run


@pytest.mark.parametrize('several', [False, True])
def test_out_of_a_segmentor_is_kept(several):
    keep_predictions = import_module('mmrest.cli.test').keep_predictions
    metric = dict(type='CityscapesMetric')
    cfg = Config(dict(default_scope='mmseg', test_evaluator=[metric] if several else metric))
    keep_predictions(cfg, 'maps')
    evaluator = cfg.test_evaluator[0] if several else cfg.test_evaluator
    assert evaluator == dict(type='CityscapesMetric', output_dir='maps', keep_results=True)


def test_auto_scale_lr():
    program = vars(import_module('mmrest.cli.train'))
    cfg = Config(dict(auto_scale_lr=dict(base_batch_size=16, enable=False)))
    program['use_auto_scale_lr'](cfg)
    assert cfg.auto_scale_lr == dict(base_batch_size=16, enable=True)
    cfg.optim_wrapper = dict(accumulative_counts=4)
    program['use_auto_scale_lr'](cfg)
    assert cfg.auto_scale_lr.base_batch_size == 4
    for without in (dict(auto_scale_lr=None), dict()):
        with pytest.raises(program['UsageError'], match=r'needs auto_scale_lr\.base_batch_size'):
            program['use_auto_scale_lr'](Config(without))


@pytest.fixture
def program():
    return vars(import_module('mmrest.cli.train'))


@pytest.mark.parametrize('name', ['retinanet_rmt_t_1x', 'upernet_rest_lite_160k'])
def test_pretrained(program, name):
    cfg = load_config(str(ROOT / 'configs' / f'{name}.py'))
    program['use_pretrained'](cfg, 'weights.pth')
    assert cfg.model.backbone.init_cfg == dict(type='Pretrained', checkpoint='weights.pth')
    assert cfg.model.get('pretrained') is None
    cfg.model.backbone.init_cfg = dict(prefix='backbone')
    program['use_pretrained'](cfg, 'weights.pth')
    wanted = dict(type='Pretrained', checkpoint='weights.pth', prefix='backbone')
    assert cfg.model.backbone.init_cfg == wanted
    cfg.model.backbone.init_cfg = dict(type='Kaiming', layer='Conv2d')
    program['use_pretrained'](cfg, 'weights.pth')
    assert cfg.model.backbone.init_cfg == dict(type='Pretrained', checkpoint='weights.pth')
    with pytest.raises(program['UsageError'], match='for a model with a backbone'):
        program['use_pretrained'](Config(dict(model=dict(type='X'))), 'weights.pth')


@pytest.mark.parametrize(
    'tool, option', [('train', ['--amp-dtype', 'bfloat16']), ('test', ['--wait-time', '1'])]
)
def test_options_of_others(tool, option, monkeypatch, capsys):
    """What another option would use is refused without that one."""
    parse_args = import_module(f'mmrest.cli.{tool}').parse_args
    monkeypatch.setattr('sys.argv', ['tool', 'config.py', *['x.pth'] * (tool == 'test'), *option])
    with pytest.raises(SystemExit):
        parse_args()
    error = capsys.readouterr().err
    assert option[0] in error and 'which is not given' in error


def test_tta_of_a_wrapped_data_set():
    use_tta = import_module('mmrest.cli.test').use_tta
    cfg = load_config(str(ROOT / 'configs' / 'retinanet_rest_lite_1x.py'))
    cfg.test_dataloader.dataset = dict(type='RepeatDataset', dataset=cfg.test_dataloader.dataset)
    with pytest.raises(UsageError, match='which a RepeatDataset does not have'):
        use_tta(cfg)


def test_pretrained_replaces_what_a_base_of_mmseg_names(program):
    cfg = Config(dict(model=dict(pretrained='open-mmlab://resnet50', backbone=dict(type='RMT'))))
    program['use_pretrained'](cfg, 'weights.pth')
    assert cfg.model.pretrained is None


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_amp(program, monkeypatch, dtype):
    monkeypatch.setitem(program['use_amp'].__globals__, 'get_device', lambda: 'cuda')
    cfg = load_config(str(ROOT / 'configs' / 'maskrcnn_rest_lite_1x.py'))
    program['use_amp'](cfg, dtype)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert (cfg.optim_wrapper.dtype, cfg.optim_wrapper.loss_scale) == (dtype, 'dynamic')
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=0.01)


@pytest.mark.parametrize(
    'each, world, accumulated, enabled, message',
    [
        (
            2,
            1,
            1,
            False,
            'total batch size is 2 (2 x 1 process(es)), but the learning rate is tuned',
        ),
        (2, 8, 1, False, None),
        (2, 4, 2, False, None),
        (4, 8, 2, False, 'is 64 (4 x 8 process(es) x 2 accumulated), but'),
        (2, 1, 1, True, None),
    ],
)
def test_batch_size(program, monkeypatch, each, world, accumulated, enabled, message):
    said = []
    scope = program['warn_of_batch_size'].__globals__
    monkeypatch.setitem(scope, 'get_world_size', lambda: world)
    monkeypatch.setitem(scope, 'print_log', lambda text, logger, level: said.append((text, level)))
    cfg = load_config(str(ROOT / 'configs' / 'retinanet_rmt_t_1x.py'))
    cfg.train_dataloader.batch_size = each
    cfg.optim_wrapper.accumulative_counts = accumulated
    cfg.auto_scale_lr.enable = enabled
    program['warn_of_batch_size'](cfg)
    assert [level for _, level in said] == ([] if message is None else [logging.WARNING])
    assert message is None or (
        message in said[0][0] and 'for 16; use --auto-scale-lr' in said[0][0]
    )


def test_dicts_in_options(monkeypatch):
    """They come as Python writes them; and paths as they are."""
    parser = Parser()
    add_config_arguments(parser)
    given = ["a=[{'type': 'X', 'n': 1}]", 'b={}', 'c=[1,x]', 'd=1e-3', 'e=true', 'f=(1,(2,x y))']
    given += ['g=my runs/out', 'h=a, b/c', 'i=a,2', 'j="a,b"', "k={'a': (1, 2)}", 'l=']
    options = parser.parse_args(['--cfg-options', *given]).cfg_options
    assert options == dict(
        a=[dict(type='X', n=1)],
        b={},
        c=[1, 'x'],
        d=1e-3,
        e=True,
        f=(1, (2, 'x y')),
        g='my runs/out',
        h='a, b/c',
        i=['a', 2],
        j='a,b',
        k=dict(a=(1, 2)),
        l='',
    )


@pytest.mark.parametrize('installed', [True, False])
def test_tensorboard_that_is_not_installed(monkeypatch, installed):
    cfg = load_config(str(ROOT / 'configs' / 'demo_semfpn_rest_lite.py'))
    cfg.visualizer.vis_backends = [dict(type='TensorboardVisBackend')]
    monkeypatch.setattr('mmrest.preflight.names.find_spec', lambda name: installed or None)
    if installed:
        with DefaultScope.overwrite_default_scope('mmseg'):
            check_names(cfg, ())
        return
    scope = DefaultScope.overwrite_default_scope('mmseg')
    with scope, pytest.raises(UsageError, match='pip install tensorboard'):
        check_names(cfg, ())


WITHOUT_COCO = """
import runpy, sys
sys.modules['pycocotools'] = None
for program in sys.argv[1:]:
    sys.argv = [program, '--help']
    try:
        runpy.run_path(program, run_name='__main__')
    except SystemExit as end:
        assert not end.code
"""


def test_help_without_pycocotools(tmp_path):
    """Which segmentors and classifiers do without."""
    (tmp_path / 'script.py').write_text(WITHOUT_COCO)
    programs = [ROOT / 'tools' / f'{name}.py' for name in ('infer', 'report')]
    done = run(tmp_path / 'script.py', *programs, cwd=tmp_path, fresh=True, PYTHONPATH=str(ROOT))
    assert done.stdout.count('usage: ') == 2
