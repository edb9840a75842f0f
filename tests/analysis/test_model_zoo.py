"""The model zoo and the metafile are up to date with the configs."""

import runpy

import pytest
import yaml

from tests.runs import ROOT

METAFILE = ROOT / 'configs' / 'metafile.yml'


def test_the_metafile_names_every_config():
    models = {model['Name']: model for model in yaml.safe_load(METAFILE.read_text())['Models']}
    assert len(models) == 81
    assert all((ROOT / model['Config']).is_file() for model in models.values())
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    assert index == {'Import': ['configs/metafile.yml']}
    for name, metrics in {
        'cascade_maskrcnn_rmt_b_3x': {'box AP': 54.5, 'mask AP': 47.2},
        'semfpn_rmt_s_80k': {'mIoU': 49.4},
        'upernet_rmt_swin_t_160k': {},  # the head of the paper's result is not known
    }.items():
        results = models[name].get('Results', [])
        assert {n: v for result in results for n, v in result['Metrics'].items()} == metrics


@pytest.fixture(scope='module')
def tool():
    return runpy.run_path(str(ROOT / 'tools' / 'model_zoo.py'))


@pytest.mark.slow
def test_metafile(tool):
    assert METAFILE.read_text() == tool['metafile'](tool['zoo']()), 'run python tools/model_zoo.py'


def test_page(tool):
    models = yaml.safe_load(METAFILE.read_text())['Models']
    page = (ROOT / 'docs' / 'model_zoo.md').read_text()
    assert page == tool['page'](models), 'run python tools/model_zoo.py'
    for row in (
        '| RMT-S | 45.57 | 288.0 | 49.0 / 43.9 | 50.7 / 44.9 | [maskrcnn_rmt_s_1x](',
        '| ResT-Base | 30.33 | 4.6 | 81.6 / 95.7 | [imagenet_rest_base_300e](',
    ):
        assert f'\n{row}' in page
