"""Errors of mmengine's builders; those of whole configs are in cli/test_bad_input.py."""

import logging

import pytest
from mmengine.dataset import DefaultSampler
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmrest.errors import misspelt


class LoggingHook(Hook):
    def __init__(self, path, interval=1):
        self.handler = logging.FileHandler(path, interval=interval)


@pytest.mark.parametrize('argument, found', [
    ('intervall', ('LoggingHook has no argument intervall', 'did you mean interval?')),
    ('colour', ('LoggingHook has no argument colour', 'remove it')),
    ('interval', None),  # the fault is in the class, and its traceback is needed
])  # fmt: skip
def test_arguments(argument, found):
    with pytest.raises(TypeError) as caught:
        HOOKS.build({'type': LoggingHook, 'path': 'x', argument: 2})
    assert misspelt(caught.value) == found


def test_a_loader_of_a_library():
    def build_dataloader(dataloader_cfg):
        return DefaultSampler(**dataloader_cfg)

    with pytest.raises(TypeError) as caught:
        build_dataloader(dict(shufle=True))
    assert misspelt(caught.value) is None
