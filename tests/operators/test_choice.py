"""Choice of MMCV ops: compiled, torchvision's, or none."""

import importlib.util
import sys

import mmcv
import pytest
from mmengine.utils.dl_utils import mmcv_full_available

from mmrest import operators


@pytest.fixture
def before_import(monkeypatch):
    """Process without imported mmrest and ops."""
    own = [folder for folder in mmcv.__path__ if folder != str(operators._FOLDER)]
    monkeypatch.setattr(mmcv, '__path__', own)
    monkeypatch.delitem(sys.modules, 'mmcv._ext', raising=False)
    monkeypatch.delenv(operators.ENVIRONMENT_VARIABLE, raising=False)
    if importlib.util.find_spec('mmcv._ext') is not None:
        pytest.skip('mmcv has compiled operators here')


def test_torchvision_replaces_ops(before_import):
    operators.install()
    assert operators.describe().startswith('torchvision ') and mmcv_full_available()
    module = importlib.import_module('mmcv._ext')
    assert module.get_compiler_version().startswith('none (torchvision ')


def test_environment_variable_disables_it(before_import, monkeypatch):
    monkeypatch.setenv('MMREST_OPERATORS', 'off')
    operators.install()
    assert operators.describe() == 'none' and not mmcv_full_available()
    monkeypatch.setenv('MMREST_OPERATORS', 'no')
    with pytest.raises(ValueError, match="MMREST_OPERATORS is 'no'; use auto or off"):
        operators.install()


def test_mmcv_is_unchanged_without_torchvision(before_import, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torchvision', None)
    operators.install()
    assert operators.describe() == 'none' and not mmcv_full_available()


def test_compiled_ops_are_used(before_import, monkeypatch, tmp_path):
    (tmp_path / '_ext.py').touch()
    monkeypatch.setattr(mmcv, '__path__', [*mmcv.__path__, str(tmp_path)])
    operators.install()
    assert operators.describe() == 'compiled'
