"""Errors of encodings; those of whole configs are in cli/test_bad_input.py."""

import json

import pytest

from mmrest.errors import UsageError, explained


@pytest.mark.parametrize('content, remedy', [
    (b'\x1f\x8b\x08', 'gzip'), (b'{"\xe4": 1}', 'PYTHONUTF8=1'),
    ('{}'.encode('utf-16'), 'as UTF-8'), (b'\xef\xbb\xbf{}', 'as UTF-8'),
])  # fmt: skip
def test_encodings(content, remedy):
    with pytest.raises(UsageError, match=remedy), explained('x.json cannot be read'):
        json.loads(content.decode('utf-8'))
