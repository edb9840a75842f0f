"""Every file is read with torch's guard and with that for torch before 2.6."""

import pytest

from mmrest.checkpoint import reading


@pytest.fixture(params=['guard of torch', 'guard for torch before 2.6'])
def guard(request, monkeypatch):
    if request.param != 'guard of torch':
        monkeypatch.setattr(reading, '_TORCH_HAS_ALLOWLIST', False)
