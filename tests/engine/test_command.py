"""Types of arguments that programs share."""

from pathlib import Path

import pytest

from mmrest.engine.command import folder, published_file, written_file


@pytest.mark.parametrize('kind, name', [
    (folder, 'x'), (published_file, 'x.pth'), (written_file('.png'), 'x.png'),
])  # fmt: skip
def test_names_with_a_tilde(kind, name, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    assert kind(f'~/{name}') == tmp_path / name
    assert kind(f'~$/{name}') == Path('~$', name)
