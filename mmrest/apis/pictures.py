"""Pictures of a run: predictions beside the ground truth, and curves of its log."""

import json
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import cv2
import matplotlib
import numpy as np
import torch
from mmengine.dataset import BaseDataset, pseudo_collate
from torch import nn

matplotlib.use('Agg')  # files only, with or without a screen
from matplotlib import pyplot as plt

Colour = Tuple[float, float, float]


def draw_predictions(
    model: nn.Module,
    dataset: BaseDataset,
    path: Path,
    indices: Sequence[int] = range(4),
    score_thr: float = 0.5,
) -> None:
    """Draw images of a data set beside their ground truth and a model's predictions.

    Args:
        model: a detector of mmdet or a segmentor of mmseg.
        dataset: its test set, with annotations.
        path: file for the picture.
        indices: which images.
        score_thr: detections below it are left out.
    """
    figure, axes = plt.subplots(
        len(indices), 3, figsize=(12, 3.4 * len(indices)), squeeze=False, layout='constrained'
    )
    for column, title in zip(axes[0], ('image', 'ground truth', 'prediction')):
        column.set_title(title, fontsize=14)
    model.eval()
    for row, index in zip(axes, indices):
        data = dataset[index]
        with torch.no_grad():
            sample = model.test_step(pseudo_collate([data]))[0].cpu()
        image = cv2.cvtColor(cv2.imread(sample.img_path), cv2.COLOR_BGR2RGB)
        for axis in row:
            axis.imshow(image)
            axis.set_axis_off()
        classes, palette = dataset.metainfo['classes'], _palette(dataset.metainfo)
        if 'pred_instances' in sample:
            found = sample.pred_instances
            truth = _on_image(data['data_samples'].gt_instances, sample)
            _draw_instances(row[1], truth, classes, palette)
            _draw_instances(row[2], found[found.scores >= score_thr], classes, palette)
        else:
            for axis, name in ((row[1], 'gt_sem_seg'), (row[2], 'pred_sem_seg')):
                source = data['data_samples'] if name == 'gt_sem_seg' else sample
                _draw_label_map(axis, getattr(source, name).data[0].numpy(), classes, palette)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _palette(metainfo: Dict[str, Any]) -> List[Colour]:
    return [tuple(channel / 255 for channel in colour) for colour in metainfo['palette']]


def _on_image(instances: Any, sample: Any) -> Any:
    """Ground truth at the size of the image file, from the size that the network sees."""
    height, width = sample.ori_shape[:2]
    instances = instances.clone()
    scale = instances.bboxes.new_tensor(sample.scale_factor).repeat(2)
    instances.bboxes = (
        torch.as_tensor(getattr(instances.bboxes, 'tensor', instances.bboxes)) / scale
    )
    instances.masks = torch.from_numpy(
        instances.masks.resize((height, width)).to_ndarray().astype(bool)
    )
    return instances


def _draw_instances(
    axis: Any, instances: Any, classes: Sequence[str], palette: Sequence[Colour]
) -> None:
    """Masks, boxes and labels; a label stands above its box, or inside where there is no room."""
    scores = getattr(instances, 'scores', None)
    for number in range(len(instances)):
        label = int(instances.labels[number])
        colour = palette[label]
        left, top, right, bottom = instances.bboxes[number].tolist()
        mask = instances.masks[number].numpy().astype(float)
        overlay = np.zeros((*mask.shape, 4))
        overlay[..., :3], overlay[..., 3] = colour, 0.45 * mask
        axis.imshow(overlay)
        axis.add_patch(
            plt.Rectangle(
                (left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=2
            )
        )
        text = classes[label] if scores is None else f'{classes[label]} {scores[number]:.2f}'
        axis.text(
            left,
            top,
            text,
            fontsize=9,
            color='white',
            verticalalignment='bottom' if top > 12 else 'top',
            bbox=dict(facecolor=colour, edgecolor='none', pad=1.5),
        )


def _draw_label_map(
    axis: Any, labels: np.ndarray, classes: Sequence[str], palette: Sequence[Colour]
) -> None:
    """Colours over the image, and a legend of the classes that occur."""
    overlay = np.zeros((*labels.shape, 4))
    present = [index for index in np.unique(labels) if index < len(classes)]
    for index in present:
        overlay[labels == index] = (*palette[index], 0.7)
    axis.imshow(overlay)
    handles = [plt.Rectangle((0, 0), 1, 1, color=palette[index]) for index in present]
    names = [classes[index] for index in present]
    axis.legend(handles, names, loc='lower right', fontsize=8, framealpha=0.9)


def draw_curves(scalars: Path, path: Path, metrics: Dict[str, str]) -> None:
    """Draw losses over iterations beside metrics over the same.

    Args:
        scalars: the ``scalars.json`` that mmengine's LocalVisBackend writes.
        path: file for the picture.
        metrics: name of a metric in that file -> what to call it.
    """
    lines = [json.loads(line) for line in scalars.read_text().splitlines()]
    losses = [line for line in lines if 'loss' in line]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout='constrained')
    names = [name for name in losses[0] if 'loss' in name]
    for name in sorted(names, key=lambda name: (name != 'loss', name)):
        left.plot(
            [line['step'] for line in losses],
            [line[name] for line in losses],
            label='total' if name == 'loss' else name.replace('loss_', ''),
            linewidth=2.5 if name == 'loss' else 1.3,
        )
    left.set(xlabel='iteration', ylabel='training loss', ylim=(0, None))
    left.legend()
    evaluations = evaluated_after(lines, metrics)
    for name, title in metrics.items():
        points = [(step, line[name]) for step, line in evaluations if name in line]
        right.plot(*zip(*points), marker='o', label=title)
    right.set(xlabel='iteration', ylabel='on held-out images', ylim=(0, 1))
    right.legend(loc='lower right')
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def evaluated_after(lines: List[dict], metrics: Dict[str, str]) -> List[Tuple[int, dict]]:
    """Lines of a log with metrics, each with the iteration after which it was measured."""
    step: Optional[int] = 0
    evaluations = []
    for line in lines:
        if 'loss' in line:
            step = line['step']
        elif metrics.keys() & line.keys():
            evaluations.append((step, line))
    return evaluations
