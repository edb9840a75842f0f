"""Fixtures that several tests share."""

import pytest
import torch

from tests.drawn import draw_ade, draw_coco


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope='session')
def coco_root(tmp_path_factory):
    """Folder of a small drawn set in COCO's layout."""
    return draw_coco(tmp_path_factory.mktemp('coco'))


@pytest.fixture(scope='session')
def ade_root(tmp_path_factory):
    """Folder of a small drawn set in ADE20K's layout."""
    return draw_ade(tmp_path_factory.mktemp('ade'))
