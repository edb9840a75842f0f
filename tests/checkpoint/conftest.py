"""Both guards of files."""

import pytest

from mmrest.checkpoint import reading


@pytest.fixture(params=['guard of torch', 'guard for torch before 2.6'])
def guard(request, monkeypatch):
    """Every file is read both ways."""
    if request.param != 'guard of torch':
        monkeypatch.setattr(reading, '_torch_has_allowlist', lambda: False)
