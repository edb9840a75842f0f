"""mmrest check: what is broken, and what to do."""

import platform
import re
from unittest import mock

import pytest
import yaml

from mmrest import __version__
from mmrest.cli import check
from mmrest.cli.check import State, remedies
from tests.runs import ROOT

GOOD = State(
    versions={
        'torch': ('torch', '2.13.0'),
        'mmengine': ('mmengine', '0.10.7'),
        'mmcv': ('mmcv', '2.1.0'),
        'mmrest': ('mmrest', '0.1.0'),
        'mmdet': ('mmdet', '3.3.0'),
        'mmseg': ('mmsegmentation', '1.2.2'),
        'ftfy': ('ftfy', '6'),
        'regex': ('regex', '2026'),
        'numpy': ('numpy', '2.4'),
        'cv2': ('opencv-python', '5'),
        'pycocotools': ('pycocotools', '2'),
    },
    faults={},
    facts={
        'gpu': False,
        'torch cuda': None,
        'cuda works': False,
        'compiled without CUDA': True,
        'operators': 'compiled',
    },
)


def main(*options):
    with mock.patch('sys.argv', ['mmrest check', *options]):
        return check.main()


def changed(versions=(), faults=(), without=(), **facts):
    kept = {k: v for k, v in GOOD.versions.items() if k not in without}
    facts = {name.replace('_', ' '): value for name, value in facts.items()}
    return State({**kept, **dict(versions)}, dict(faults), {**GOOD.facts, **facts})


def test_what_fits_is_fine():
    assert remedies(GOOD) == {}
    forks = {
        'mmcv': ('onedl-mmcv', '2.3.6'),
        'mmdet': ('onedl-mmdetection', '3.5.1'),
        'mmseg': ('onedl-mmsegmentation', '1.4.2'),
        'mmengine': ('onedl-mmengine', '0.10.12'),
    }
    assert remedies(changed(forks)) == {}
    lite = changed(
        {'mmcv': ('mmcv-lite', '2.1.0')},
        {'mmcv._ext': 'No module'},
        without=('mmdet', 'mmseg', 'ftfy', 'regex', 'pycocotools'),
    )
    assert remedies(lite) == {}  # the backbones alone need no operators
    mmpretrain = ('mmpretrain', '1.2.0'), ('torchvision', '0.27.1')
    assert remedies(changed({name: (name, version) for name, version in mmpretrain})) == {}


@pytest.mark.parametrize(
    'state, module, remedy',
    [
        (changed({'mmcv': ('mmcv', '2.2.0')}), 'mmcv', 'mmdet 3.3.0 refuses mmcv from 2.2.0 on'),
        (
            changed(faults={'mmcv._ext': 'undefined symbol'}),
            'mmcv',
            r'undefined symbol.*pip uninstall -y mmcv, then pip install mmcv-lite==2\.1\.0',
        ),
        (
            changed({'mmcv': ('mmcv-lite', '2.1.0')}, {'mmcv._ext': 'No module'}),
            'torchvision',
            'mmcv-lite has no operators without it: install the release of your torch',
        ),
        (changed(both_mmcv=True), 'mmcv', 'overwrite each other'),
        (changed(cuda_works=True, torch_cuda='12.6', gpu=True), 'mmcv', 'compiled without CUDA'),
        (changed(without=('ftfy',)), 'ftfy', 'mmseg imports it without asking.*install ftfy'),
        (changed(without=('regex',)), 'regex', 'mmseg imports it without asking.*install regex'),
        (changed(gpu=True), 'torch', 'there is a GPU, but this build has no CUDA'),
        (
            changed(gpu=True, torch_cuda='13.0'),
            'torch',
            r'CUDA 13\.0 does not start: see nvidia-smi',
        ),
        (
            changed({'mmpretrain': ('mmpretrain', '1.2.0')}),
            'torchvision',
            'mmpretrain imports it: install the release of your torch',
        ),
        (changed(without=('mmengine',)), 'mmengine', 'mmrest needs it: pip install mmengine'),
        (changed(faults={'cv2': 'libGL.so.1'}), 'cv2', r'does not import \(libGL\.so\.1\)'),
    ],
)
def test_what_does_not_fit_is_named_with_its_remedy(state, module, remedy):
    found = remedies(state)
    assert list(found) == [module]
    assert re.search(remedy, found[module])


def test_operators_that_were_turned_off(monkeypatch):
    monkeypatch.setenv('MMREST_OPERATORS', 'off')
    state = changed({'mmcv': ('mmcv-lite', '2.1.0')}, {'mmcv._ext': 'No module'})
    assert 'MMREST_OPERATORS=off' in remedies(state)['mmcv']


def test_table_and_exit_status(monkeypatch, capsys):
    monkeypatch.setattr(check, 'look', lambda: GOOD)
    assert main() == 0
    assert 'mmdet' in capsys.readouterr().out
    monkeypatch.setattr(check, 'look', lambda: changed(without=('ftfy',)))
    assert main() == 1
    assert 'pip install ftfy' in capsys.readouterr().out.replace('\n', ' ')


def test_what_is_newer_than_what_was_tried(monkeypatch):
    """It is no fault, and it is said."""
    state = changed({'torch': ('torch', '2.99.0')})
    assert remedies(state) == {}
    (row,) = (row for row in check.rows(state) if row[0] == 'torch')
    assert row[2:] == (
        '2.1 to 2.14',
        'newer than what mmrest was tried with, 2.1 to 2.14: run its tests',
    )
    monkeypatch.setattr('platform.python_version', lambda: '3.14.1')
    assert check.surroundings(state)['Python'].startswith('3.14.1 (newer than what mmrest')


def test_what_belongs_into_an_issue(monkeypatch, capsys):
    monkeypatch.setattr(check, 'look', lambda: changed(without=('ftfy',)))
    monkeypatch.setenv('MMREST_BACKEND', 'reference')
    assert main('--markdown') == 1
    said = capsys.readouterr().out
    for line in (
        rf'- Python: {re.escape(platform.python_version())} \(supported\)',
        r'- commit of mmrest: ([0-9a-f]{7,}(-dirty)?|none, it is installed)',
        '- GPU: none',
        '- operators of mmcv: compiled',
        '- attention: reference, forced by MMREST_BACKEND',
        r'\| mmdet \| 3\.3\.0 \| ==3\.3\.0 \| fine \|',
        r'\| ftfy \| - \| any \| mmseg imports it without asking for it: pip install ftfy \|',
    ):
        assert re.search(f'^{line}$', said, re.M), line


@pytest.mark.parametrize(
    'variable, said', [('', 'torch; not triton: '), ('magic', "unknown backend 'magic'")]
)
def test_attention_of_this_machine(monkeypatch, variable, said):
    monkeypatch.setenv('MMREST_BACKEND', variable)
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    assert said in check.surroundings(GOOD)['attention']


def test_versions_stand_in_one_place():
    """The citation and the log of changes name the version of the package."""
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert citation['version'] == __version__
    changes = (ROOT / 'CHANGELOG.md').read_text()
    assert re.search(rf'^## \[{re.escape(__version__)}\]', changes, re.M)


def test_this_environment_is_fine():
    assert remedies(check.look()) == {}


def test_one_range_of_versions():
    """The README, the documents and setup.py say what check_env says."""
    python, torch = map(check.supported_range, ('Python', 'torch'))
    for page in ('README.md', 'CONTRIBUTING.md', 'docs/index.md'):
        text = (ROOT / page).read_text()
        assert f'Python {python} and PyTorch {torch}' in text, page
    pinned = re.findall(
        r'^torch==(\d+)\.(\d+)', (ROOT / 'requirements/torch.txt').read_text(), re.M
    )
    assert max(tuple(map(int, release)) for release in pinned) == check.SUPPORTED['torch'][1]
    assert f"python_requires='>={python.split()[0]}'" in (ROOT / 'setup.py').read_text()


def test_supported_versions_are_those_of_the_requirements():
    assert check.supported_versions()['mmdet'] == '==3.3.0'
    assert check.supported_versions()['torch'] == '>=2.1'
