"""tools/benchmark.py: figures of every job, as JSON, table and plot."""

import json

import pytest

from tests.tools.runs import ROOT, run, run_here

TOOL = ROOT / 'tools' / 'benchmark.py'


def test_benchmark(tmp_path):
    done = run(
        TOOL, 'rest_lite', '--sizes', '32x48', '--repeats', '2', '--train', '--memory',
        '--threads', '1', cwd=tmp_path,
    )  # fmt: skip
    folder = tmp_path / 'work_dirs' / 'benchmark'
    content = json.loads((folder / 'benchmark.json').read_text())
    names = [(tuple(entry['size']), entry['name']) for entry in content['entries']]
    jobs = ['rest_lite torch', 'rest_lite reference']
    assert names == [((32, 48), job) for job in jobs]
    for entry in content['entries']:
        assert len(entry['seconds']) == 2 and min(entry['seconds']) > 0
        assert min(entry['seconds']) <= entry['median'] <= max(entry['seconds'])
        assert entry['peak'] > entry['kept'] > 0 and 0 < entry['share'] < 1
    assert '1 threads' in content['machine'] and min(content['rates'].values()) > 0
    table = (folder / 'benchmark.md').read_text()
    assert '(1x1 convolution)' in table
    assert table.count('| rest_lite reference |') == 1 and table.count('| 1.00 |') == 1
    assert table.strip() in done.stdout.replace(' \n', '\n')
    assert (folder / 'benchmark.png').stat().st_size > 1000


@pytest.mark.parametrize('arguments, message', [
    (['rmt_x'], "no network 'rmt_x'; choose from"),
    (['--sizes', '800'], "'800' is not of the form HEIGHTxWIDTH"),
    (['--with-cp'], '--with-cp is for --train'),
    (['--device', 'cuda'], 'torch finds no GPU; leave it out'),
])  # fmt: skip
def test_bad_input(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    status = run_here('benchmark', *arguments)
    line = capsys.readouterr().err if status == 2 else status
    assert message in line and line.strip().count('\n') == 0
    assert not (tmp_path / 'work_dirs').exists()
