"""mmrest check: broken packages and fixes."""

import platform
import re
from unittest import mock

import pytest
import torch
import yaml

from mmrest import __version__
from mmrest.cli import check
from mmrest.cli.check import State, remedies
from mmrest.errors import UsageError
from tests.runs import ROOT

ABSENT = ('mmpretrain', 'torchvision', 'triton')
VERSIONS = {
    **{name: (found[0], '1') for name, found, _ in check.PACKAGES if name not in ABSENT},
    'torch': ('torch', '2.13.0'),
    'mmcv': ('mmcv', '2.1.0'),
    'mmdet': ('mmdet', '3.3.0'),
}
LITE = {'mmcv': ('mmcv-lite', '2.1.0')}, {'mmcv._ext': 'No module'}
CLASSIFICATION = {'mmpretrain': ('mmpretrain', '1.2.0')}


def state(versions=(), faults=(), without=(), **facts):
    """Return a valid environment, except for the arguments."""
    kept = {k: v for k, v in VERSIONS.items() if k not in without}
    ops = dict(operators='compiled', without_cuda=True)
    return State({**kept, **dict(versions)}, dict(faults), **ops, **facts)


FORKS = {
    'mmcv': ('onedl-mmcv', '2.3.6'),
    'mmdet': ('onedl-mmdetection', '3.5.1'),
    'mmseg': ('onedl-mmsegmentation', '1.4.2'),
    'mmengine': ('onedl-mmengine', '0.10.12'),
}


@pytest.mark.parametrize('fine', [
    state(),
    state(FORKS),
    # The backbones need no operators.
    state(*LITE, without=('mmdet', 'mmseg', 'ftfy', 'regex', 'pycocotools')),
    state({**CLASSIFICATION, 'torchvision': ('torchvision', '0.27.1')}),
])  # fmt: skip
def test_fine(fine):
    assert remedies(fine) == {}


@pytest.mark.parametrize('broken, module, remedy', [
    (state({'mmcv': ('mmcv', '2.2.0')}), 'mmcv', r'mmdet 3\.3\.0 requires mmcv<2\.2'),
    (
        state(faults={'mmcv._ext': 'undefined symbol'}), 'mmcv',
        r'undefined symbol.*pip uninstall -y mmcv, then pip install mmcv-lite==2\.1\.0',
    ),
    (state(*LITE), 'torchvision', 'mmcv-lite has no ops without it: install the release'),
    (state(both_mmcv=True), 'mmcv', 'overwrite each other'),
    (state(cuda_works=True, torch_cuda='12.6', gpu=True), 'mmcv', 'compiled without CUDA'),
    (state(without=('ftfy',)), 'ftfy', 'mmseg needs it: pip install ftfy'),
    (state(gpu=True), 'torch', 'this build has no CUDA: install a CUDA build'),
    (state(gpu=True, torch_cuda='13.0'), 'torch', r'CUDA 13\.0 does not work: see nvidia-smi'),
    (state({'torch': ('torch', '2.0.1')}), 'torch', r'too old, mmrest supports 2\.1 to'),
    (
        state({'torch': ('torch', '2.1.2+cu121'), 'numpy': ('numpy', '2.2.6')}), 'numpy',
        'PyTorch before 2.3 cannot use numpy 2: pip install "numpy<2" ',
    ),
    (state(CLASSIFICATION), 'torchvision', 'mmpretrain needs it: install the release for'),
    (state(without=('mmengine',)), 'mmengine', 'mmrest needs it: pip install mmengine'),
    (state(faults={'pkg_resources': 'x'}), 'pkg_resources', r'\(x\): pip install "setuptools<81"'),
    (state(faults={'mmdet': 'x'}), 'mmdet', r'\(x\): reinstall it'),
    (state(faults={'cv2': 'libGL.so.1'}), 'cv2', r'cannot be imported \(libGL\.so\.1\)'),
])  # fmt: skip
def test_remedies(broken, module, remedy):
    found = remedies(broken)
    assert list(found) == [module]
    assert re.search(remedy, found[module])


def test_disabled_ops(monkeypatch):
    monkeypatch.setenv('MMREST_OPERATORS', 'off')
    assert 'MMREST_OPERATORS=off' in remedies(state(*LITE))['mmcv']


def main(*options):
    with mock.patch('sys.argv', ['mmrest check', *options]):
        return check.main()


def test_untested_releases(monkeypatch):
    newer = state({'torch': ('torch', '2.99.0')})
    assert remedies(newer) == {}
    (row,) = (row for row in check.rows(newer) if row[0] == 'torch')
    assert row[2:] == ('2.1 to 2.15', 'newer than the tested 2.1 to 2.15: run the tests of mmrest')
    monkeypatch.setattr('platform.python_version', lambda: '3.14.1')
    assert check.surroundings(newer)['Python'].startswith('3.14.1 (newer than the tested 3.8 to ')
    monkeypatch.setattr('platform.python_version', lambda: '3.13.0+')  # built from git
    assert check.surroundings(newer)['Python'] == '3.13.0+ (supported)'


def test_a_clone_that_is_not_installed(monkeypatch):
    installed = check.metadata.version
    absent = dict(mmrest=mock.Mock(side_effect=check.metadata.PackageNotFoundError))
    monkeypatch.setattr(check.metadata, 'version', lambda name: absent.get(name, installed)(name))
    assert check.look().versions['mmrest'] == ('mmrest', __version__)


def test_a_bug_report(monkeypatch, capsys):
    monkeypatch.setattr(check, 'look', lambda: state(without=('ftfy',)))
    monkeypatch.setenv('MMREST_BACKEND', 'reference')
    assert main('--markdown') == 1
    said = capsys.readouterr().out
    for line in (
        rf'- Python: {re.escape(platform.python_version())} \(supported\)',
        r'- mmrest commit: ([0-9a-f]{7,}(-dirty)?|n/a \(installed package\))',
        '- GPU: none',
        '- MMCV ops: compiled',
        '- attention: reference, forced by MMREST_BACKEND',
        r'\| mmdet \| 3\.3\.0 \| ==3\.3\.0 \| ok \|',
        r'\| ftfy \| - \| any \| mmseg needs it: pip install ftfy \|',
    ):
        assert re.search(f'^{line}$', said, re.M), line


def test_attention_in_half_precision(monkeypatch):
    """As training with --amp uses it."""
    refusal = {torch.float16: None}
    monkeypatch.setattr(check, 'refuse_triton', lambda q, k, v: refusal.get(q.dtype, 'slower'))
    assert check.surroundings(state())['attention'] == 'triton, torch in float32'


@pytest.mark.parametrize(
    'variable, said', [('', 'torch (not triton: '), ('magic', "unknown backend 'magic'")]
)
def test_attention_of_this_machine(monkeypatch, variable, said):
    monkeypatch.setenv('MMREST_BACKEND', variable)
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    assert said in check.surroundings(state())['attention']
    if variable:
        with pytest.raises(UsageError, match=said):
            check.check_backends('cpu')


def test_this_environment_is_fine(capsys):
    assert main() == 0
    assert 'mmdet' in capsys.readouterr().out


def test_versions_are_the_same_everywhere():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert citation['version'] == __version__
    changes = (ROOT / 'CHANGELOG.md').read_text()
    assert re.search(rf'^## \[{re.escape(__version__)}\]', changes, re.M)
    python, torch = map(check.supported_range, ('Python', 'torch'))
    for page in ('README.md', 'CONTRIBUTING.md', 'docs/index.md'):
        assert f'Python {python} and PyTorch {torch}' in (ROOT / page).read_text(), page
    requirements = (ROOT / 'requirements/torch.txt').read_text()
    pinned = re.findall(r'^torch==(\d+)\.(\d+)', requirements, re.M)
    assert max(tuple(map(int, release)) for release in pinned) <= check.SUPPORTED['torch'][1]
    assert f"python_requires='>={python.split()[0]}'" in (ROOT / 'setup.py').read_text()
    supported = check.supported_versions()
    assert supported['mmdet'] == '==3.3.0' and supported['torch'] == '>=2.1'
