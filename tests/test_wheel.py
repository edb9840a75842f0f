"""Content of the wheel."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from mmengine.config import Config

import mmrest
from mmrest.engine.config import load_config
from tests.runs import ROOT, run


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """Wheel of a copy of the tracked files, with a module of an earlier build."""
    folder = tmp_path_factory.mktemp('wheel')
    source = folder / 'source'
    for name in ('configs', 'mmrest', 'requirements', 'tools'):
        ignored = shutil.ignore_patterns('.mim', '__pycache__')
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in (
        'LICENSE', 'MANIFEST.in', 'README.md', 'model-index.yml', 'pyproject.toml', 'setup.py',
    ):  # fmt: skip
        shutil.copy(ROOT / name, source)
    (source / 'build' / 'lib' / 'mmrest').mkdir(parents=True)
    (source / 'build' / 'lib' / 'mmrest' / 'stale.py').touch()
    subprocess.run(
        [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation', '-w', folder,
         source],
        check=True, capture_output=True,
    )  # fmt: skip
    (path,) = folder.glob('*.whl')
    return path


def test_files_of_the_package(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert 'mmrest/stale.py' not in names
    templates = [path.relative_to(ROOT) for path in (ROOT / 'mmrest').rglob('*.html')]
    assert templates and all(str(path) in names for path in templates)
    names = {name for name in names if '.mim/' in name}
    for folder in ('configs', 'tools'):
        for path in (ROOT / folder).rglob('*'):
            if path.suffix in ('.py', '.sh', '.yml') and path.name != 'model_zoo.py':
                assert f'mmrest/.mim/{path.relative_to(ROOT)}' in names
    assert 'mmrest/.mim/model-index.yml' in names
    assert not [name for name in names if 'cache' in name or name.endswith('model_zoo.py')]


def test_they_are_found_after_a_plain_install(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / 'site')  # as pip does
    (tmp_path / 'mine.py').write_text(
        "_base_ = ['mmrest::_base_/backbones/rmt_s.py']\nmodel = _base_.backbone"
    )
    code = """
import mmrest
from mmengine.utils import get_installed_path
from mmrest.engine.config import load_config
print(mmrest.__file__)
print(load_config('mine.py').model.arch)
print(get_installed_path('mmrest') + '/.mim/configs/maskrcnn_rmt_s_3x.py')
"""
    done = run('-c', code, cwd=tmp_path, fresh=True, PYTHONPATH=str(tmp_path / 'site'))
    where, arch, config = done.stdout.splitlines()[-3:]
    assert where == str(tmp_path / 'site/mmrest/__init__.py') and arch == 's'
    assert config == str(tmp_path / 'site/mmrest/.mim/configs/maskrcnn_rmt_s_3x.py')
    assert Config.fromfile(config).model.backbone.type == 'RMT'


def test_they_are_found_in_an_editable_install():
    mim = Path(mmrest.__file__).parent / '.mim'
    if not mim.is_dir():
        pytest.skip('mmrest is not installed: it runs from a folder')
    assert load_config(str(mim / 'configs' / 'upernet_rmt_l_160k.py')).model.backbone.arch == 'l'
    assert (mim / 'tools' / 'train.py').is_file() and (mim / 'model-index.yml').is_file()
