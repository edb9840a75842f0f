"""Generate token labels of ImageNet with RMT-B, on a grid of 14 x 14."""

from pathlib import Path

import torch
from mmcv.transforms import Compose
from mmpretrain import get_model

teacher = get_model('configs/imagenet_rmt_b_300e.py', pretrained='rmt_b.pth').eval()
load = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(448, 448))]
pipeline = Compose([*load, dict(type='mmpretrain.PackInputs')])
for path in sorted(Path('data/imagenet/train').glob('*/*')):
    batch = {name: [value] for name, value in pipeline(dict(img_path=str(path))).items()}
    with torch.no_grad():
        images = teacher.data_preprocessor(batch)['inputs']
        tokens = teacher.neck.project(teacher.backbone(images)[-1])
        logits = teacher.head.fc(tokens.permute(0, 2, 3, 1))[0]  # (14, 14, 1000)
    labels = torch.stack(logits.topk(5)).permute(0, 3, 1, 2)  # (2, 5, 14, 14)
    target = Path('data/imagenet/label_top5_train_nfnet', path.parent.name, f'{path.stem}.pt')
    target.parent.mkdir(parents=True, exist_ok=True)
    torch.save(labels.half().cpu(), target)
