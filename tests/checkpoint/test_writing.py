"""Writing: whole, or not at all."""

import errno
import os
from hashlib import sha256

import pytest
import torch

from mmrest.checkpoint import CheckpointError, publish, read_checkpoint, save_checkpoint, writing


def test_a_file_takes_the_place_of_another(tmp_path):
    path = tmp_path / 'x.pth'
    for value in (1, 2):
        save_checkpoint({'a': torch.full((3,), value)}, str(path))
        assert (read_checkpoint(str(path))['a'] == value).all()
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def full_disk(monkeypatch):
    """Writes go to a device that is always full."""
    opened = open
    monkeypatch.setattr(
        writing,
        'open',
        lambda path, mode='r': opened('/dev/full' if 'w' in mode else path, mode),
        raising=False,
    )


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='no /dev/full here')
@pytest.mark.parametrize('values', [3, 10**6])
def test_a_full_disk_loses_nothing(values, tmp_path, full_disk):
    path = tmp_path / 'x.pth'
    torch.save({'a': torch.ones(2)}, path)
    with pytest.raises(CheckpointError, match=r'x\.pth cannot be written: No space left') as error:
        save_checkpoint({'a': torch.ones(values)}, str(path))
    assert '\n' not in str(error.value)
    assert (read_checkpoint(str(path))['a'] == 1).all()
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_renamed_has_reached_the_disk(tmp_path, monkeypatch):
    """A machine that loses power after the renaming would else keep an empty file."""
    calls = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, 'fsync', lambda file: calls.append('sync') or sync(file))
    monkeypatch.setattr(os, 'replace', lambda *args: calls.append('rename') or replace(*args))
    save_checkpoint({'a': torch.ones(2)}, str(tmp_path / 'x.pth'))
    assert calls == ['sync', 'rename', 'sync']


def test_what_cannot_be_saved_is_not_blamed_on_the_disk(tmp_path):
    with pytest.raises(Exception, match='pickle') as error:
        save_checkpoint({'a': lambda: None}, str(tmp_path / 'x.pth'))
    assert not isinstance(error.value, CheckpointError)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(writing, 'open', refuse, raising=False)
    with pytest.raises(CheckpointError, match='Read-only file system'):
        save_checkpoint({'a': torch.ones(2)}, str(tmp_path / 'x.pth'))


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_publish_keeps_the_tensors_alone(suffix, tmp_path):
    whole = torch.ones(1000)
    path = publish(tmp_path / 'new' / f'x{suffix}', {'a': whole[:3], 'b': whole[:6:2]}, {'n': 1})
    assert path.stem == f'x-{sha256(path.read_bytes()).hexdigest()[:8]}'
    assert path.stat().st_size < 2500
    assert os.listdir(path.parent) == [path.name]
