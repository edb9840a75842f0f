"""Atomic writes."""

import errno
import os
import stat
import subprocess
import sys
from hashlib import sha256

import pytest
import torch

from mmrest.checkpoint import (
    CheckpointError,
    check_writable,
    lock_folder,
    publish,
    read_checkpoint,
    remove_unfinished,
    write_atomically,
)
from mmrest.errors import UsageError


def save(path, value=1):
    """Write a checkpoint as mmengine's file backend does."""
    write_atomically(path, lambda name: torch.save({'a': torch.full((3,), value)}, name))


def test_a_file_replaces_another(tmp_path, monkeypatch):
    """It is synced before it is renamed; otherwise, it could be empty after a power failure."""
    path, calls = tmp_path / 'x.pth', []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, 'fsync', lambda file: calls.append('sync') or sync(file))
    monkeypatch.setattr(os, 'replace', lambda *args: calls.append('rename') or replace(*args))
    for value in (1, 2):
        save(path, value)
        assert (read_checkpoint(str(path))['a'] == value).all()
    assert list(tmp_path.iterdir()) == [path]
    assert calls == ['sync', 'rename', 'sync'] * 2


@pytest.mark.parametrize('failing', ['folder', 'file'])
def test_folders_need_not_be_synced(failing, tmp_path, monkeypatch):
    """Network drives refuse it, with any error."""

    def sync(file):
        if stat.S_ISDIR(os.fstat(file).st_mode) == (failing == 'folder'):
            raise OSError(errno.EIO, 'Input/output error')

    monkeypatch.setattr(os, 'fsync', sync)
    path = tmp_path / 'x.pth'
    if failing == 'file':
        with pytest.raises(CheckpointError, match='Input/output error'):
            save(path)
    else:
        save(path)
    assert path.exists() == (failing == 'folder')


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='no /dev/full here')
@pytest.mark.parametrize('values', [3, 10**6])
def test_a_full_disk_loses_nothing(values, tmp_path):
    """Errors of Python and of torch are handled."""
    path = tmp_path / 'x.pth'
    save(path)

    def write(name):
        with open('/dev/full', 'wb') as file:
            torch.save({'a': torch.ones(values)}, file)

    with pytest.raises(CheckpointError, match=r'x\.pth cannot be written: No space left') as error:
        write_atomically(path, write)
    assert '\n' not in str(error.value)
    assert (read_checkpoint(str(path))['a'] == 1).all()
    assert list(tmp_path.iterdir()) == [path]


LOCK = """
import pathlib, sys
from mmrest.checkpoint import lock_folder
lock_folder(pathlib.Path(sys.argv[1]))
print(flush=True)
input()
"""


def test_one_run_a_folder(tmp_path):
    """Two would mix their logs, and remove each other's checkpoints."""
    folder = tmp_path / 'new' / 'run'
    with subprocess.Popen(
        [sys.executable, '-c', LOCK, str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as other:  # fmt: skip
        assert other.stdout.readline()
        with pytest.raises(CheckpointError, match=rf'another run writes to {folder};'):
            lock_folder(folder)
    lock_folder(folder)  # the other has ended
    lock_folder(folder)


def test_errors_of_pickling(tmp_path):
    """They are not the user's, unlike those of a disk."""
    with pytest.raises(Exception, match=r"pickle|Can't get local object") as error:
        write_atomically(tmp_path / 'x.pth', lambda name: torch.save({'a': lambda: None}, name))
    assert not isinstance(error.value, CheckpointError)
    assert not list(tmp_path.iterdir())


def test_unfinished_files(tmp_path):
    """Only files of processes that have ended are removed."""
    gone = subprocess.Popen(['true'])
    gone.wait()
    for process in (gone.pid, os.getpid()):
        (tmp_path / f'.x.pth.{process}.part').touch()
    (tmp_path / '.mine.part').touch()
    remove_unfinished(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {f'.x.pth.{os.getpid()}.part', '.mine.part'}


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_publish_saves_only_the_tensors(suffix, tmp_path):
    full = torch.ones(1000)
    path = publish(tmp_path / 'new' / f'x{suffix}', {'a': full[:3], 'b': full[:6:2]}, {'n': 1})
    assert path.stem == f'x-{sha256(path.read_bytes()).hexdigest()[:8]}'
    assert path.stat().st_size < 2500
    assert os.listdir(path.parent) == [path.name]


def test_folders_without_write_permission(tmp_path, monkeypatch):
    assert check_writable(str(tmp_path / 'a' / 'b')) == tmp_path
    # Root may write anywhere: what the system says of others is made up.
    monkeypatch.setattr('os.access', lambda path, mode: False)
    with pytest.raises(UsageError, match='is not writable; use another --work-dir'):
        check_writable(str(tmp_path / 'a'))
    assert not list(tmp_path.iterdir())
