"""requirements/install.py: complete only when proven, and a failed step is named."""

import importlib.util
import json
import subprocess
import sys

import pytest

from tests.tools.runs import ROOT, run

INSTALL = ROOT / 'requirements' / 'install.py'


@pytest.fixture
def install():
    spec = importlib.util.spec_from_file_location('install', INSTALL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Recorder:
    """Stands in for an Environment: answers probes from a list and records what is installed."""

    def __init__(self, install, answers):
        self.install, self.answers, self.installed = install, answers, []
        self.python = 'python'

    def output(self, code):
        if code == self.install.CUDA_STATE:
            return self.answers.pop('cuda')
        return self.answers['operators'].pop(0)

    def pip(self, step, arguments, remedy, **variables):
        assert variables['MMCV_WITH_OPS'] == '1'
        self.installed.append(arguments)


def test_operators_that_work_are_left_alone(install):
    env = Recorder(install, {'operators': ['']})
    install.install_mmcv(env)
    assert env.installed == []


def test_a_cached_wheel_for_another_torch_is_replaced(install):
    env = Recorder(install, {'operators': [None, None, ''], 'cuda': ''})
    install.install_mmcv(env)
    first, second = env.installed
    assert '--no-cache-dir' not in first
    assert {'--no-cache-dir', '--force-reinstall', '--no-deps'} <= set(second)
    assert first[-1] == second[-1] == 'mmcv==2.1.0'


def test_operators_that_never_work_are_a_failure(install):
    env = Recorder(install, {'operators': [None, None, None], 'cuda': ''})
    with pytest.raises(install.StepFailed, match='operators of mmcv do not work with this torch'):
        install.install_mmcv(env)


def test_cuda_without_nvcc_is_said_before_the_build(install):
    env = Recorder(install, {'operators': [None], 'cuda': '12.6'})
    with pytest.raises(install.StepFailed, match=r'no nvcc.*install the CUDA toolkit 12\.6'):
        install.install_mmcv(env)
    assert env.installed == []


def test_a_failed_step_is_named_and_nothing_passes_for_complete(tmp_path, install):
    done = run(
        INSTALL, tmp_path / 'venv', cwd=tmp_path, check=False, PIP_NO_INDEX='1', PIP_FIND_LINKS=''
    )
    assert done.returncode == 1
    assert '[make env] could not install the build tools: ' in done.stderr
    assert json.loads((tmp_path / 'venv' / '.mmrest.json').read_text()) == {'proven': None}
    assert not install.Environment(tmp_path / 'venv', None).is_complete()


def test_complete_until_something_changes(tmp_path, install, monkeypatch):
    (tmp_path / 'bin').mkdir()
    (tmp_path / 'bin' / 'python').symlink_to(sys.executable)
    install.Environment(tmp_path, 'torch==2.4.1').mark(complete=True)
    assert install.Environment(tmp_path, 'torch==2.4.1').is_complete()
    assert install.Environment(tmp_path, None).is_complete()  # the choice is remembered
    assert not install.Environment(tmp_path, 'torch==2.5.0').is_complete()
    monkeypatch.setattr(install, 'ROOT', tmp_path)  # the clone was moved
    assert not install.Environment(tmp_path, None).is_complete()


def test_a_choice_of_torch_is_remembered_once_it_was_installed(tmp_path, install):
    install.Environment(tmp_path, 'torch==0').mark()
    assert install.Environment(tmp_path, None).torch.startswith('torch==2.')
    install.Environment(tmp_path, 'torch==2.4.1').mark(torch_installed=True)
    assert install.Environment(tmp_path, None).torch == 'torch==2.4.1'


def test_the_default_torch_follows_the_requirements(tmp_path, install, monkeypatch):
    install.Environment(tmp_path, None).mark(torch_installed=True)
    monkeypatch.setattr(install, '_pinned', lambda name, package='': 'torch==9.9')
    env = install.Environment(tmp_path, None)
    assert (env.torch, env.known['torch'][:8]) == ('torch==9.9', 'torch==2')
    # Another build of the same version must replace what is there, too.
    ran = []
    monkeypatch.setattr(env, 'create', lambda: None)
    monkeypatch.setattr(env, 'output', lambda code: '')
    monkeypatch.setattr(env, 'run', lambda step, *args, **kwargs: ran.append(step))
    install.install(env)
    assert ran[2] == 'install torch (torch==9.9)'
    assert ran[1].startswith('remove the torch of before (torch==2')


def test_an_environment_without_pip_is_made_again(tmp_path, install):
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', tmp_path / 'v'], check=True)
    env = install.Environment(tmp_path / 'v', None)
    assert env.output('import pip') is None
    env.create()
    assert env.output('import pip') is not None
    assert not install.Environment(tmp_path, None).is_complete()


def test_the_environment_of_classification(tmp_path, install, monkeypatch):
    """It has a torch of its own with the torchvision for it, and compiles nothing."""
    env = install.Environment(tmp_path, None, install.CONTENTS['cls'])
    assert env.torch == 'torch==2.12.1 torchvision==0.27.1'
    installed = []
    monkeypatch.setattr(env, 'create', lambda: None)
    monkeypatch.setattr(env, 'output', lambda code: '')
    monkeypatch.setattr(env, 'pip', lambda step, *args, **kwargs: installed.append(args[0]))
    monkeypatch.setattr(install, 'install_mmcv', None)
    install.install(env)
    assert ['-q', 'torch==2.12.1', 'torchvision==0.27.1'] in installed
    listed = [arguments[-1].rpartition('/')[2] for arguments in installed if '-r' in arguments]
    assert listed[1:] == ['cls_mminstall.txt', 'runtime.txt', 'cls.txt', 'cls_tests.txt']
    assert env.is_complete()
    assert not install.Environment(tmp_path, None).is_complete()  # which needs mmdet
