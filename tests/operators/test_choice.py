"""Choice of MMCV ops: compiled, torchvision's, or none."""

import importlib.machinery
import importlib.util
import multiprocessing
import sys

import pytest
from mmengine.utils.dl_utils import mmcv_full_available

from mmrest import operators
from mmrest.engine.signals import isolate_children


@pytest.fixture
def before_import(monkeypatch):
    """Process without imported mmrest and ops."""
    others = [finder for finder in sys.meta_path if not isinstance(finder, operators._Finder)]
    monkeypatch.setattr(sys, 'meta_path', others)
    monkeypatch.delitem(sys.modules, 'mmcv._ext', raising=False)
    monkeypatch.delenv(operators.ENVIRONMENT_VARIABLE, raising=False)
    if importlib.util.find_spec('mmcv._ext') is not None:
        pytest.skip('mmcv has compiled operators here')


def test_torchvision_replaces_ops(before_import):
    operators.install()
    operators.install()
    assert sum(isinstance(finder, operators._Finder) for finder in sys.meta_path) == 1
    assert operators.describe().startswith('torchvision ') and mmcv_full_available()
    module = importlib.import_module('mmcv._ext')
    assert module.get_compiler_version().startswith('none (torchvision ')


def test_spawned_processes_of_a_run_have_the_ops():
    """Also one that imports mmcv.ops first, like loader workers with a dataset of mmdet."""
    isolate_children()
    process = multiprocessing.get_context('spawn').Process(
        target=importlib.import_module, args=('mmcv.ops',)
    )
    process.start()
    process.join()
    assert process.exitcode == 0


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


def test_compiled_ops_are_used(before_import, monkeypatch):
    class Compiled:
        def find_spec(self, name, path=None, target=None):
            if name == 'mmcv._ext':
                return importlib.machinery.ModuleSpec(name, None, origin='_ext.so')

    operators.install()
    sys.meta_path.insert(0, Compiled())
    assert operators.describe() == 'compiled'
