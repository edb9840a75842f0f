"""What inference looks at: names as they are given and as they are found."""

from pathlib import Path

import pytest

from mmrest.apis.inputs import find_inputs
from mmrest.engine.errors import UsageError


def paths(*given):
    return [str(found.path) for found in find_inputs(given, Path('outputs'))]


def test_names_with_a_tilde(tmp_path, monkeypatch):
    """A file of that name comes before the home folder of a user; no user, no error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    for name in ('~$x.jpg', '~', 'home/y.jpg'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert paths('~$x.jpg') == paths('~$*.jpg') == ['~$x.jpg']
    assert paths('~') == ['~'] and paths('~/y.jpg') == [str(tmp_path / 'home' / 'y.jpg')]
    with pytest.raises(UsageError, match=r'input ~\$z.jpg does not exist'):
        paths('~$z.jpg')
