"""tools/get_flops.py: the figures of configs and names, as a table and as JSON."""

import json

import pytest
from mmrest.apis.complexity import count_parts
from mmrest.apis.networks import network_config, on_meta

from tests.tools.runs import ROOT, SEGMENTOR, run

TOOL = ROOT / 'tools' / 'get_flops.py'


def test_name(tmp_path):
    """The parts of the JSON sum to its totals, and the table shows both."""
    path = tmp_path / 'new' / 'figures.json'
    done = run(TOOL, 'rmt_t', '--json', path, cwd=tmp_path, COLUMNS='100')
    content = json.loads(path.read_text())
    assert content['network'] == 'rmt_t' and content['shape'] == [224, 224]
    for key in ('parameters', 'macs', 'attention'):
        assert content[key] == sum(part[key] for part in content['parts'])
    assert content['macs'] / 1e9 == pytest.approx(2.611, rel=1e-3)
    rows = [line.split('│')[1:-1] for line in done.stdout.splitlines() if '│' in line]
    cells = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}
    for part in (*content['parts'], dict(content, name='total')):
        parameters, *counts = cells[part['name']]
        assert parameters == f'{part["parameters"]:,}'
        assert counts == [f'{part[key] / 1e9:.3f}' for key in ('macs', 'attention')]


def test_config(tmp_path):
    """A segmentor and its backbone alone, with another arch, at one size."""
    (tmp_path / 'tiny.py').write_text(SEGMENTOR)
    found = []
    for options in ([], ['--backbone-only']):
        run(
            TOOL, 'tiny.py', *options, '--shape', '48', '80', '--json', 'x.json',
            '--cfg-options', 'model.backbone.arch.depths="[1,2,1,1]"', cwd=tmp_path,
        )  # fmt: skip
        found.append(json.loads((tmp_path / 'x.json').read_text()))
    whole, alone = found
    assert whole['shape'] == alone['shape'] == [48, 80]
    shared = {part['name'].replace('backbone: ', ''): part['macs'] for part in whole['parts']}
    assert {part['name'] for part in alone['parts']} | {'neck', 'decode_head'} == set(shared)
    assert all(shared[part['name']] == part['macs'] for part in alone['parts'])
    assert shared['stage 2'] > shared['stage 3']  # by its second block


def test_a_head_that_is_not_counted(tmp_path):
    """It has a dash and null; a line names it, and the total says that it is without it."""
    (tmp_path / 'solo.py').write_text("_base_ = 'mmdet::solo/solo_r50_fpn_1x_coco.py'")
    done = run(TOOL, 'solo.py', '--shape', '64', '--json', 'x.json', cwd=tmp_path, COLUMNS='100')
    content = json.loads((tmp_path / 'x.json').read_text())
    assert content['not_counted'] == ['mask_head']
    *others, head = content['parts']
    assert head['parameters'] > 0 and head['macs'] is head['attention'] is None
    assert content['macs'] == sum(part['macs'] for part in others) > 0
    assert content['parameters'] == sum(part['parameters'] for part in content['parts'])
    rows = [line.split('│')[1:-1] for line in done.stdout.splitlines() if '│' in line]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert cells[-2] == ['mask_head', f'{head["parameters"]:,}', '-', '-']
    assert cells[-1][0] == 'total without -'
    assert 'Not counted, and missing in the total: mask_head;' in done.stdout


def test_config_of_a_backbone(tmp_path):
    """It is what the name stands for, with or without --backbone-only; its path is not broken."""
    path = tmp_path / ('a_folder_of_a_long_name/' * 6) / 'rest.py'
    path.parent.mkdir(parents=True)
    path.write_text("model = dict(type='ResT', arch='lite')")
    done = run(TOOL, path, '--backbone-only', '--json', 'x.json', cwd=tmp_path, COLUMNS='80')
    assert f'{path}, one image of 224 x 224\n' in done.stdout
    parts = count_parts(on_meta(network_config('rest_lite')), 224, 224)
    found = json.loads((tmp_path / 'x.json').read_text())['parts']
    assert [part['macs'] for part in found] == [part.macs for part in parts]
