"""A folder of configs and data that are to be changed."""

import shutil

import pytest

from tests.drawn import draw_ade, draw_coco
from tests.runs import DETECTOR, SMALL_SEGMENTOR

MIXED = """
_base_ = './det.py'
load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
inner = dict(_base_.train_dataloader.dataset, pipeline=load)
mixed = [
    dict(type='Mosaic', img_scale=(64, 64)),
    dict(type='Resize', scale=(64, 64)),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(
    dataset=dict(_delete_=True, type='MultiImageMixDataset', dataset=inner, pipeline=mixed),
    batch_sampler=None,
)
model = dict(roi_head=dict(mask_roi_extractor=None, mask_head=None))
val_evaluator = dict(metric='bbox')
default_hooks = dict(checkpoint=dict(save_best='auto'))
"""


@pytest.fixture(scope='session')
def drawn(tmp_path_factory):
    """Folder with configs and data, which is copied for each fault."""
    folder = tmp_path_factory.mktemp('drawn')
    for root, draw in (('coco', draw_coco), ('ade', draw_ade)):
        (folder / root).mkdir()
        draw(folder / root)
    for name, text in (('det', DETECTOR), ('seg', SMALL_SEGMENTOR), ('mixed', MIXED)):
        (folder / f'{name}.py').write_text(text)
    return folder


@pytest.fixture
def folder(drawn, tmp_path, monkeypatch):
    shutil.copytree(drawn, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path
