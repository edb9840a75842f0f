"""mmrest benchmark: times of networks, and metrics of checkpoints in one table."""

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mmrest.analysis import measure
from mmrest.cli import benchmark
from tests.runs import run_here

RESULTS = {
    'a': {'coco/bbox_mAP': 0.5, 'coco/segm_mAP': 0.25},
    'b': {'mIoU': 40.04},
    'voc': {'pascal_voc/mAP': 0.5, 'pascal_voc/AP50': 0.6},
    'lvis': {'lvis/bbox_AP': 0.25},
}
OPTIONS = ['--cfg-options', 'randomness.seed=0']
HEADER = '| config | checkpoint | box AP | box AP, reported | mask AP | mask AP, reported |'


@pytest.fixture(autouse=True)
def _without_processes(monkeypatch):
    monkeypatch.setattr(measure, '_process', lambda: ThreadPoolExecutor(1))


def test_networks(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert not run_here(
        'benchmark', 'networks', 'rest_lite', '--sizes', '32x48', '--repeats', '2', '--train',
        '--memory',
    )  # fmt: skip
    content = json.loads((tmp_path / 'work_dirs/benchmark/benchmark.json').read_text())
    names = [(entry['size'], entry['name']) for entry in content['entries']]
    assert names == [([32, 48], 'rest_lite torch'), ([32, 48], 'rest_lite reference')]
    for entry in content['entries']:
        assert len(entry['seconds']) == 2 and min(entry['seconds']) > 0
        assert min(entry['seconds']) <= entry['median'] <= max(entry['seconds'])
        assert entry['peak'] > entry['saved'] > 0
    assert f'{torch.get_num_threads()} threads' in content['machine']
    table = (tmp_path / 'work_dirs/benchmark/benchmark.md').read_text()
    rows = [row.split(' | ') for row in table.splitlines()[-2:]]
    medians = [entry['median'] for entry in content['entries']]
    assert [row[1] for row in rows] == ['rest_lite torch', 'rest_lite reference']
    assert [row[4] for row in rows] == [f'{medians[1] / medians[0]:.2f}', '1.00']
    assert table in capsys.readouterr().out


@pytest.mark.parametrize('size, reported', [((224, 224), '876'), ((224, 256), '-')])
def test_rates_beside_those_of_the_paper(size, reported):
    job = measure.Job('rmt_s', 'torch', size, batch=8)
    entry = dict(job._asdict(), name='rmt_s torch', median=0.5, seconds=[0.5])
    row = benchmark.table([entry]).splitlines()[-1].split(' | ')
    assert row[5:7] == ['16.0', reported]


def test_networks_that_fail(tmp_path):
    line = run_here('benchmark', 'networks', 'emsa', '--sizes', '7x9', '--work-dir', tmp_path)
    assert 'these networks cannot be measured: RuntimeError: ' in line and '\n' not in line


def test_large_maps_skip_the_reference(monkeypatch):
    monkeypatch.setattr('sys.argv', ['benchmark', 'networks', 'emsa', 'rmt_t', '--train'])
    args = benchmark.parse_args()
    names = [job.name for job in benchmark.jobs_of(args, (1792, 1792))]
    assert names == ['emsa torch', 'rmt_t torch', 'rmt_t reference']


@pytest.fixture
def tests_run(tmp_path, monkeypatch):
    """Record started commands instead of running tests; the test of x.pth fails."""
    commands = []

    def run(command, preexec_fn):
        commands.append(command[command.index('test') + 1 :])
        folder = tmp_path / command[command.index('--work-dir') + 1] / str(len(commands))
        folder.mkdir(parents=True)
        name = commands[-1][1].partition('.')[0]
        if name in RESULTS:
            content = dict(RESULTS[name], data_time=0.1, time=0.25, memory_mb=300.0)
            (folder / 'metrics.json').write_text(json.dumps(content))
        return subprocess.CompletedProcess(command, name not in RESULTS)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, 'run', run)
    for name in ('a.pth', 'b.pth', 'x.pth', 'b.safetensors', 'voc.pth', 'lvis.pth'):
        (tmp_path / name).touch()
    return commands


def test_checkpoints(tests_run, tmp_path, capsys):
    """Published results are in the table; a second run tests only what changed or failed."""
    names = ['maskrcnn_rmt_s_3x.py', 'semfpn_rmt_l_80k.py', 'other/semfpn_rmt_l_80k.py']
    (tmp_path / 'other').mkdir()
    for name, scope in zip(names, ('mmdet', 'mmseg', 'mmseg')):
        (tmp_path / name).write_text(f"model = dict()\ndefault_scope = '{scope}'\n")
    pairs = [f'{name}={weights}.pth' for name, weights in zip(names, 'abx')]
    given = ['benchmark', 'checkpoints', *pairs, '--coco', 'c', *OPTIONS]
    message = 'benchmark.py: error: 1 of 3 tests failed: other/semfpn_rmt_l_80k.py=x.pth'
    assert run_here(*given) == message
    options = [*OPTIONS, '--work-dir']
    assert [command[:-1] for command in tests_run] == [
        [names[0], 'a.pth', '--data-root', 'c', *options],
        [names[1], 'b.pth', *options],
        [names[2], 'x.pth', *options],
    ]
    table = (tmp_path / 'work_dirs/benchmark_checkpoints/table.md').read_text()
    header, _, detector, segmentor = table.splitlines()
    assert header.startswith(HEADER) and table in capsys.readouterr().out
    cells = detector.split(' | ')
    assert cells[1:6] == ['a.pth', '50.0', '50.7', '25.0', '44.9'] and cells[-2] == '4.00'
    assert '| 40.0 | 51.4 |' in segmentor and segmentor.endswith('| 300 |')
    assert not run_here('benchmark', 'checkpoints', f'{names[1]}=b.safetensors', *OPTIONS)
    assert tests_run.pop()[1] == 'b.safetensors'  # not taken for b.pth
    (of_b,) = (tmp_path / 'work_dirs').rglob('2/metrics.json')
    os.utime(of_b, (0, 0))  # older than b.pth
    assert run_here(*given) == message
    assert [command[1] for command in tests_run[3:]] == ['b.pth', 'x.pth']
    assert run_here(*given[:-1], 'randomness.seed=1') == message
    assert [command[1] for command in tests_run[5:]] == ['a.pth', 'b.pth', 'x.pth']


def test_checkpoints_with_other_metrics(tests_run, tmp_path):
    (tmp_path / 'c.py').write_text("model = dict()\ndefault_scope = 'mmdet'\n")
    assert not run_here('benchmark', 'checkpoints', 'c.py=voc.pth', 'c.py=lvis.pth')
    assert (tmp_path / 'work_dirs/benchmark_checkpoints/table.md').read_text().splitlines() == [
        '| config | checkpoint | pascal_voc/mAP | lvis/bbox_AP | batches/s | memory (MB) |',
        '| --- | --- | --- | --- | --- | --- |',
        '| c | voc.pth | 0.500 | - | 4.00 | 300 |',
        '| c | lvis.pth | - | 0.250 | 4.00 | 300 |',
    ]
