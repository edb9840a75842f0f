"""The command ``mmrest``: its list of commands, shipped configs by name, and near misses."""

import os
import subprocess
import sys

import pytest
import yaml

from mmrest.engine.config import load_config
from mmrest.errors import UsageError
from mmrest.shipped import find
from mmrest_cli import COMMANDS
from tests.runs import ROOT


def mmrest(*arguments):
    command = [sys.executable, '-X', 'importtime', '-m', 'mmrest_cli', *arguments]
    env = {**os.environ, 'COLUMNS': '200'}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize('arguments', [[], ['--help'], ['configs'], ['--version']])
def test_answers_without_torch(arguments):
    status, said, imported = mmrest(*arguments)
    assert status == 0 and said
    assert not any(f'| {name}\n' in imported for name in ('torch', 'mmengine', 'numpy'))
    if arguments in ([], ['--help']):
        assert all(f'  {name} ' in said for name in COMMANDS)


def test_closed_streams():
    """As a daemon closes them."""
    command = f'"{sys.executable}" -m mmrest_cli configs rmt_s <&- >&- 2>&-'
    subprocess.run(command, shell=True, cwd=ROOT, check=True)


def test_configs():
    """All configs of the metafile are listed, or only those that contain the words."""
    models = yaml.safe_load((ROOT / 'configs' / 'metafile.yml').read_text())['Models']
    listed = mmrest('configs')[1]
    assert all(f'{model["Name"]} ' in listed for model in models)
    assert 'own_coco_small' in mmrest('configs', 'own')[1]
    rows = mmrest('configs', 'maskrcnn', 'small', '1x')[1].splitlines()
    assert [row.split()[0] for row in rows[1:3]] == [
        'maskrcnn_rest_small_1x', 'cascade_maskrcnn_rest_small_1x'
    ]  # fmt: skip
    assert 'box AP 39.6, mask AP 37.2' in rows[1]
    assert rows[4] == 'Official weights of maskrcnn_rest_small_1x:'
    assert rows[5].startswith('  https://')


@pytest.mark.parametrize('arguments, status, said', [
    (['trian'], 2, "unknown command 'trian'; did you mean train?"),
    (['configs', 'zzz'], 1, 'no shipped config contains zzz'),
    (['configs', 'semfpn_rmt_s_40k'], 1, 'did you mean semfpn_rmt_s_80k?'),
])  # fmt: skip
def test_near_misses(arguments, status, said):
    found, _, errors = mmrest(*arguments)
    assert found == status and said in errors


def test_missing_packages(tmp_path):
    (tmp_path / 'mmcv.py').write_text("raise ModuleNotFoundError('no mmcv', name='mmcv')")
    command = [sys.executable, '-c', 'import mmrest_cli; mmrest_cli.main()', 'check']
    paths = os.pathsep.join(map(str, (tmp_path, ROOT)))
    env = {**os.environ, 'PYTHONPATH': paths}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith('mmrest: error: mmcv is not installed')


def test_a_config_by_name():
    for name in ('semfpn_rmt_s_80k', 'semfpn_rmt_s_80k.py', 'mmrest::semfpn_rmt_s_80k.py'):
        assert find(name).samefile(ROOT / 'configs' / 'semfpn_rmt_s_80k.py')
    assert load_config(name).filename == str(find(name))
    with pytest.raises(UsageError, match=r'not found: .*; did you mean semfpn_rmt_s_80k\?'):
        load_config('semfpn_rtm_s_80k')
