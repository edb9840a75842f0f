"""The program of docs/token_labelling.md makes files that say what the teacher says."""

import re

import cv2
import numpy as np
import torch
from mmpretrain import get_model

from mmrest import RMT
from mmrest.classification.token_maps import read_token_map
from tests.models.networks import TINY
from tests.tools.runs import ROOT

TEACHER = f"""
_base_ = '{ROOT}/configs/imagenet_rmt_b_300e.py'
model = dict(
    backbone=dict(arch=dict(_delete_=True, **{TINY[RMT]})),
    neck=dict(in_channels=32, out_channels=16),
    head=dict(in_channels=16, num_classes=9),
)
data_preprocessor = dict(num_classes=9)
"""


def test_program_of_the_document(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (program,) = re.findall(
        r'```python\n(.*?)```', (ROOT / 'docs' / 'token_labelling.md').read_text(), re.DOTALL
    )
    (tmp_path / 'configs').mkdir()
    (tmp_path / 'configs' / 'imagenet_rmt_b_300e.py').write_text(TEACHER)
    teacher = get_model('configs/imagenet_rmt_b_300e.py').eval()
    torch.save(teacher.state_dict(), 'rmt_b.pth')
    folder = tmp_path / 'data' / 'imagenet' / 'train' / 'n01440764'
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ('n01440764_1.JPEG', 'n01440764_2.JPEG'):
        content = cv2.imencode('.jpg', rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))[1]
        (folder / name).write_bytes(content.tobytes())
    exec(compile(program, 'token_labelling.md', 'exec'), {})
    made = tmp_path / 'data' / 'imagenet' / 'label_top5_train_nfnet' / 'n01440764'
    assert sorted(path.name for path in made.iterdir()) == ['n01440764_1.pt', 'n01440764_2.pt']
    scores, classes = read_token_map(str(made / 'n01440764_2.pt'), 9)
    assert scores.shape == classes.shape == (5, 14, 14)
    image = cv2.resize(cv2.imread(str(folder / 'n01440764_2.JPEG')), (448, 448))
    normed = (image[:, :, ::-1] - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]
    with torch.no_grad():
        maps = teacher.backbone(torch.from_numpy(normed).permute(2, 0, 1)[None].float())
        logits = teacher.head.fc(teacher.neck.project(maps[-1])[0].permute(1, 2, 0))
    best = logits.topk(5)
    torch.testing.assert_close(scores.permute(1, 2, 0), best.values, rtol=1e-2, atol=1e-3)
    assert (classes.permute(1, 2, 0) == best.indices).float().mean() > 0.95
