"""What programs share: types of arguments, and the config of a run."""

from pathlib import Path

import pytest

from mmrest.cli.command import (
    Parser,
    add_run_arguments,
    folder,
    published_file,
    run_config,
    written_file,
)
from mmrest.engine.errors import UsageError
from tests.tools.runs import ROOT


@pytest.mark.parametrize('kind, name', [
    (folder, 'x'), (published_file, 'x.pth'), (written_file('.png'), 'x.png'),
])  # fmt: skip
def test_names_with_a_tilde(kind, name, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    assert kind(f'~/{name}') == tmp_path / name
    assert kind(f'~$/{name}') == Path('~$', name)


def test_an_unknown_backend_ends_a_run_before_it_begins(monkeypatch):
    monkeypatch.setenv('MMREST_BACKEND', 'nonsense')
    parser = Parser()
    parser.add_argument('config')
    add_run_arguments(parser)
    args = parser.parse_args([str(ROOT / 'configs' / 'own_coco.py')])
    with pytest.raises(UsageError, match=r"MMREST_BACKEND: unknown backend 'nonsense'; choose"):
        run_config(args)
