"""Console output and logs of DisplayHook."""

import io
import json
import math
import re
import sys

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook, IterTimerHook
from mmengine.registry import METRICS
from rich.console import Console

from mmrest.engine.devices import peak_memory_mb
from mmrest.engine.display import DisplayHook, ScreenRunner, say
from tests.engine.toy import EPOCHS, config


@METRICS.register_module(force=True)
class Scores(BaseMetric):
    """Metric with given values, one per evaluation."""

    def __init__(self, scores):
        super().__init__()
        self.scores = iter(scores)

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return dict(mIoU=next(self.scores), aAcc=0.5)


def shown(folder, scores, epochs, by_epoch=True, console=None, **checkpoint):
    """Runner with two iterations per epoch, and the hook."""
    interval = 1 if by_epoch else 2
    length = dict(max_epochs=epochs) if by_epoch else dict(max_iters=2 * epochs)
    loader = dict(batch_size=2, dataset=dict(indices=4))
    cfg = config(
        folder,
        by_epoch=by_epoch,
        checkpoint=dict(EPOCHS, by_epoch=by_epoch, interval=interval, **checkpoint),
        param_scheduler=[],
        train_dataloader=loader,
        val_dataloader=loader,
        val_evaluator=dict(type='Scores', scores=scores),
        test_cfg={},
        train_cfg=dict(val_interval=interval, **length),
        log_processor=dict(by_epoch=by_epoch, window_size=20),
    )
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    runner = type('Shown', (ScreenRunner,), {'console': console}).from_cfg(cfg)
    runner.register_hook(DisplayHook(console))
    return runner


def log(folder):
    return [line for path in sorted(folder.glob('*/*.log')) for line in path.open()]


def best(folder):
    return [line.split('best so far: ')[1].strip() for line in log(folder) if 'best so' in line]


def scalars(folder):
    (path,) = folder.glob('*/vis_data/scalars.json')
    return [line for line in map(json.loads, path.open()) if 'loss' in line]


def test_log_of_training(tmp_path, monkeypatch):
    monkeypatch.setattr('mmrest.engine.display.get_world_size', lambda: 4)
    runner = shown(tmp_path, [1.0] * 8, epochs=8)  # more iterations than a window of ten
    runner.train()
    assert runner.message_hub.get_scalar('images').max_length == 10_000  # of any long run
    (line,) = [line for line in log(tmp_path) if 'Epoch(train)' in line and '[8][2/2]' in line]
    assert 'eta: ' in line and ' time: ' in line
    for logged in scalars(tmp_path):
        assert logged['img_per_s'] == pytest.approx(2 * 4 / logged['time'], rel=1e-3)
        assert 10 < logged['memory_mb'] <= peak_memory_mb()


def test_without_a_timer(tmp_path):
    runner = shown(tmp_path, [1.0], epochs=1)
    runner.hooks.remove(next(hook for hook in runner.hooks if isinstance(hook, IterTimerHook)))
    runner.train()
    assert all('img_per_s' not in line and 'memory_mb' in line for line in scalars(tmp_path))


@pytest.mark.parametrize('scores, options, found', [
    ([0.3, 0.6, 0.5], dict(), 'mIoU 0.6000 (epoch 2)'),
    ([math.nan, 0.6, 0.2], dict(), 'mIoU 0.6000 (epoch 2)'),
    ([0.3, 0.6], dict(by_epoch=False), 'mIoU 0.6000 (iteration 4)'),
    ([0.3, 0.6], dict(save_best='aAcc'), 'aAcc 0.5000 (epoch 1)'),
    ([0.3, 0.6], dict(save_best='auto'), 'mIoU 0.6000 (epoch 2)'),
    ([0.3, 0.6, 0.2], dict(save_best='mIoU', rule='less'), 'mIoU 0.2000 (epoch 3)'),
])  # fmt: skip
def test_best_so_far(tmp_path, scores, options, found):
    shown(tmp_path, scores, epochs=len(scores), **options).train()
    assert len(best(tmp_path)) == len(scores) and best(tmp_path)[-1] == found


def test_best_of_a_resumed_run(tmp_path):
    """The best checkpoint contains the metric of its evaluation."""
    shown(tmp_path, [0.3, 0.6], epochs=2, save_best='mIoU').train()
    (path,) = tmp_path.glob('best_*.pth')
    resumed = shown(tmp_path, [0.5], epochs=3)
    resumed.resume(str(path))
    resumed.train()
    assert best(tmp_path)[-1] == 'mIoU 0.6000 (epoch 2)'


NO_NUMBERS = dict(of_classes=[0.1, 0.2], matrix=torch.ones(2, 2))


@pytest.mark.parametrize('numbers', [{}, {'pascal_voc/mAP': 0.5}])
def test_other_metrics(tmp_path, monkeypatch, numbers):
    found = {**NO_NUMBERS, **numbers}
    monkeypatch.setattr(Scores, 'compute_metrics', lambda self, results: dict(found))
    shown(tmp_path, [], epochs=1).train()
    assert best(tmp_path) == [f'{name} 0.5000 (epoch 1)' for name in numbers]


def test_no_best_metric_without_training(tmp_path):
    assert shown(tmp_path, [0.3], epochs=1).val() == dict(mIoU=0.3, aAcc=0.5)
    assert best(tmp_path) == []


class Printing(Hook):
    """Metric that prints, warns and logs during evaluation."""

    def before_val(self, runner):
        print('creating index...')
        runner.logger.warning('an image is grey')
        runner.logger.info('paramwise_options -- weight')
        say('the weights fit')

    before_test = before_val


@pytest.mark.parametrize('phase', ['train', 'test'])
def test_screen(tmp_path, phase):
    """A terminal shows summary, bars, metrics and warnings; the rest is in the log."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    runner = shown(tmp_path, [0.3, 0.6, 0.5], epochs=3, console=console)
    runner.register_hook(Printing())
    runner.cfg.optim_wrapper['accumulative_counts'] = 2
    runner.model.net.init_cfg = [dict(type='Pretrained', checkpoint='x.pth')]
    getattr(runner, phase)()
    output = re.sub(r'\x1b\[[0-9;?]*[a-zA-Z]', '', screen.getvalue())
    assert 'warning: an image is grey' in output and 'the weights fit' in output
    assert re.search(r'mIoU +0\.3000', output) and '2/2' in output and 'it/s' in output
    if phase == 'train':
        assert re.search('model +Toy, 0.0 M parameters', output)
        assert re.search('weights +net from x.pth', output)
        assert '4 images to train on, 4 to evaluate on' in output
        assert '3 epochs of 2 iterations, total batch size 4' in output
        assert re.search(
            r'epoch 3/3 .* 100% \S+ loss \S+ lr 0\.01 [0-9.e+]+ img/s [0-9.]+ GiB *\n', output
        )
        assert 'epoch 3, best so far: mIoU 0.6000 (epoch 2)' in output
    assert not re.search('creating index|INFO|paramwise', output)
    assert re.search(r'INFO - creating index\.\.\.\n', ''.join(log(tmp_path)))


def test_breakpoints_are_on_the_terminal(tmp_path, monkeypatch):
    class Breaking(Hook):
        def before_val(self, runner):
            print('half a', end=' ')
            print('line')
            breakpoint()

    monkeypatch.delenv('PYTHONBREAKPOINT', raising=False)
    monkeypatch.setattr(sys, 'breakpointhook', sys.__breakpointhook__)  # not that of pytest
    stdout, stdin = io.StringIO(), io.StringIO('p runner.epoch + 40\nc\n')
    monkeypatch.setattr(sys, '__stdout__', stdout)
    monkeypatch.setattr(sys, 'stdin', stdin)
    runner = shown(tmp_path, [0.3], epochs=1, console=Console(file=io.StringIO()))
    runner.register_hook(Breaking())
    runner.train()
    assert '41' in stdout.getvalue() and sys.breakpointhook is sys.__breakpointhook__
    assert 'INFO - half a line\n' in ''.join(log(tmp_path))


def test_console_without_terminal(tmp_path, capsys):
    """MMEngine's log is shown, without one line per parameter."""
    runner = shown(tmp_path, [0.3], epochs=1)
    runner.register_hook(Printing())
    runner.train()
    output = capsys.readouterr().out
    assert 'Epoch(train)' in output and 'Epoch(val)' in output and 'creating index' in output
    assert 'paramwise' not in output and 'paramwise' in ''.join(log(tmp_path))
