"""Fixtures that several tests share."""

import logging
import os
from functools import partial
from pathlib import Path

import pytest
import torch
from mmengine.logging import MMLogger

import mmrest  # noqa: F401  (before mmdet, so that mmcv's operators come from torchvision)
from tests.drawn import draw_ade, draw_coco
from tests.forks import quicken

# Before anything imports Triton, whose kernels run in its interpreter if a test forces them.
os.environ['TRITON_INTERPRET'] = '1'


quicken()


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope='session')
def coco_root(tmp_path_factory):
    """Folder of a small synthetic dataset in COCO's layout."""
    return draw_coco(tmp_path_factory.mktemp('coco'))


@pytest.fixture(scope='session')
def ade_root(tmp_path_factory):
    """Folder of a small synthetic dataset in ADE20K's layout."""
    return draw_ade(tmp_path_factory.mktemp('ade'))


@pytest.fixture(scope='session')
def photographs():
    """Folder of small real datasets, next to the repository."""
    folder = Path(__file__).resolve().parents[2] / 'shared' / 'data'
    if not folder.is_dir():
        pytest.skip(f'no real photographs at {folder}')
    return folder


@pytest.fixture
def session():
    """Return onnxruntime's session of a model, on the CPU."""
    pytest.importorskip('onnxscript', reason='pip install -r requirements/optional.txt')
    onnxruntime = pytest.importorskip('onnxruntime')
    return partial(onnxruntime.InferenceSession, providers=['CPUExecutionProvider'])


@pytest.fixture
def log(caplog, monkeypatch):
    """Lines of mmengine's log; a file of an earlier run would get some of them instead."""
    monkeypatch.setattr(MMLogger.get_current_instance(), 'handlers', [caplog.handler])
    caplog.set_level(logging.INFO)
    return caplog
