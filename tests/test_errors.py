"""Errors of mmengine's builders; those of whole configs are in cli/test_bad_input.py."""

import json
import logging

import pytest
from mmengine.dataset import DefaultSampler
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmrest.errors import UsageError, explained, misspelt


class LoggingHook(Hook):
    def __init__(self, path, interval=1):
        self.handler = logging.FileHandler(path, interval=interval)


def test_a_fault_inside_of_a_class():
    """It is no misspelt argument of a config, and its traceback is needed."""
    with pytest.raises(TypeError) as caught:
        HOOKS.build(dict(type=LoggingHook, path='x', interval=2))
    assert misspelt(caught.value) is None


def test_a_loader_of_a_library():
    """It may have the name of mmengine's builder, but not its variables."""

    def build_dataloader(dataloader_cfg):
        return DefaultSampler(**dataloader_cfg)

    with pytest.raises(TypeError) as caught:
        build_dataloader(dict(shufle=True))
    assert misspelt(caught.value) is None


@pytest.mark.parametrize('content, remedy', [
    (b'\x1f\x8b\x08', 'gzip'), (b'{"\xe4": 1}', 'PYTHONUTF8=1'),
    ('{}'.encode('utf-16'), 'as UTF-8'), (b'\xef\xbb\xbf{}', 'as UTF-8'),
])  # fmt: skip
def test_encodings(content, remedy):
    with pytest.raises(UsageError, match=remedy), explained('x.json cannot be read'):
        json.loads(content.decode('utf-8'))
