"""The page of the zoo and the metafile say what the configs say."""

import runpy

import pytest
import yaml

from tests.tools.runs import ROOT

METAFILE = ROOT / 'configs' / 'metafile.yml'


def test_the_metafile_names_every_config():
    models = yaml.safe_load(METAFILE.read_text())['Models']
    assert len(models) == 81
    assert all((ROOT / model['Config']).is_file() for model in models)
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    assert index == {'Import': ['configs/metafile.yml']}


@pytest.fixture(scope='module')
def written():
    """The page and the metafile as tools/model_zoo.py would write them now."""
    tool = runpy.run_path(str(ROOT / 'tools' / 'model_zoo.py'))
    entries = tool['zoo']()
    return tool['page'](entries), tool['metafile'](entries)


@pytest.mark.slow
def test_the_page_is_fresh(written):
    page, _ = written
    assert (ROOT / 'docs' / 'model_zoo.md').read_text() == page, 'run python tools/model_zoo.py'
    page, _, ablations = page.partition('## Ablation networks')
    rows = [line for line in page.splitlines() if line.startswith('| R')]
    assert len(rows) == 81
    (row,) = [r for r in rows if '[maskrcnn_rest_base_1x]' in r]
    assert '| 41.6 | 38.7 |' in row
    (row,) = [r for r in rows if '[imagenet_rest_base_300e]' in r]
    assert '| 300 epochs | 30.33 | 4.6 | 81.6 | 95.7 |' in row
    (row,) = [r for r in rows if '[maskrcnn_rest_large_1x]' in r]
    assert '| - | - |' in row
    (row,) = [r for r in ablations.splitlines() if r.startswith('| RMT-DeiT-S')]
    assert row == '| RMT-DeiT-S | 21.59 | 4.57 | none | yes | no | no | no | no | no | - |'
    (row,) = [r for r in ablations.splitlines() if r.startswith('| RMT-Swin-T')]
    assert row.startswith('| RMT-Swin-T | 27.50 | 4.55 | 1, 2, 3 | yes | no ')
    (row,) = [r for r in ablations.splitlines() if r.startswith('| RMT-S ')]
    assert row.endswith('| 1, 2, 3 | yes | yes | yes | yes | yes | yes | 84.1 |')


@pytest.mark.slow
def test_the_metafile_is_fresh(written):
    _, metafile = written
    assert METAFILE.read_text() == metafile, 'run python tools/model_zoo.py'
    for model in yaml.safe_load(metafile)['Models']:
        # The whole network, whose backbone alone has more than this.
        assert model['Metadata']['Parameters'] > 10e6
