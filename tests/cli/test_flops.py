"""mmrest flops: the counts of configs and names, as a table and as JSON."""

import json
from operator import itemgetter

import pytest

from tests.runs import SEGMENTOR, run_here


@pytest.fixture
def counted(tmp_path, monkeypatch, capsys):
    """Return the JSON, part -> cells of the table, and the output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('COLUMNS', '100')

    def run(*args):
        assert not run_here('get_flops', *args, '--json', 'new/x.json')
        printed = capsys.readouterr().out
        rows = [line.split('│')[1:-1] for line in printed.splitlines() if '│' in line]
        cells = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}
        return json.loads((tmp_path / 'new' / 'x.json').read_text()), cells, printed

    return run


def test_name(counted):
    """The parts of the JSON sum to its totals, and the table shows both."""
    content, cells, _ = counted('rmt_t')
    assert content['network'] == 'rmt_t' and content['shape'] == [224, 224]
    for key in ('parameters', 'macs', 'attention'):
        assert content[key] == sum(part[key] for part in content['parts'])
    for part in (*content['parts'], dict(content, name='total')):
        parameters, *counts = cells[part['name']]
        assert parameters == f'{part["parameters"]:,}'
        assert counts == [f'{part[key] / 1e9:.3f}' for key in ('macs', 'attention')]


def test_config(counted, tmp_path):
    """A segmentor and only its backbone, with another arch, at one size."""
    (tmp_path / 'tiny.py').write_text(SEGMENTOR)
    options = ['--shape', '48', '80', '--cfg-options', 'model.backbone.arch.depths=[1,2,1,1]']
    full, _, _ = counted('tiny.py', *options)
    alone, _, _ = counted('tiny.py', '--backbone-only', *options)
    assert full['shape'] == alone['shape'] == [48, 80]
    counts = itemgetter('macs', 'attention', 'parameters')
    shared = {part['name'].replace('backbone: ', ''): counts(part) for part in full['parts']}
    own = {part['name']: counts(part) for part in alone['parts']}
    assert shared == {**own, **{name: shared[name] for name in ('neck', 'decode_head')}}
    assert shared['stage 2'] > shared['stage 3']  # by its second block


def test_channels(counted):
    """Only the first layer depends on them."""
    first, *others = counted('rest_lite')[0]['parts']
    wider, *same = counted('rest_lite', '--cfg-options', 'model.in_channels=6')[0]['parts']
    assert wider['macs'] > first['macs'] and same == others


def test_uncounted_head(counted, tmp_path):
    """It is shown as a dash and null, named in a line, and excluded from the total."""
    (tmp_path / 'solo.py').write_text("_base_ = 'mmdet::solo/solo_r50_fpn_1x_coco.py'")
    content, cells, printed = counted('solo.py', '--shape', '64')
    assert content['not_counted'] == ['mask_head']
    *others, head = content['parts']
    assert head['parameters'] > 0 and head['macs'] is head['attention'] is None
    assert content['macs'] == sum(part['macs'] for part in others) > 0
    assert content['parameters'] == sum(part['parameters'] for part in content['parts'])
    assert cells['mask_head'] == [f'{head["parameters"]:,}', '-', '-']
    assert list(cells)[-1] == 'total without -'
    assert 'Not counted in the total: mask_head\n' in printed
