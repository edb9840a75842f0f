"""Pictures of what a classifier says of images."""

from pathlib import Path
from typing import Sequence

import cv2
import matplotlib
import torch
from mmengine.dataset import BaseDataset, pseudo_collate
from torch import nn

matplotlib.use('Agg')  # files only, with or without a screen
from matplotlib import pyplot as plt

COLUMNS = 5
RIGHT, WRONG = '#1b7f3b', '#c1272d'


def draw_classes(
    model: nn.Module, dataset: BaseDataset, path: Path, indices: Sequence[int] = ()
) -> None:
    """Draw images of a data set, each under the class that a model gives it and the right one.

    Args:
        model: a classifier of mmpretrain.
        dataset: its test set, with labels.
        path: file for the picture.
        indices: which images; none: fifteen, spread over the data set.
    """
    count = min(3 * COLUMNS, len(dataset))
    indices = indices or [number * len(dataset) // count for number in range(count)]
    rows = -(-len(indices) // COLUMNS)
    figure, axes = plt.subplots(
        rows, COLUMNS, figsize=(12, 2.8 * rows), dpi=110, squeeze=False, layout='constrained'
    )
    for axis in axes.flat:
        axis.set_axis_off()
    classes = dataset.metainfo['classes']
    model.eval()
    for axis, index in zip(axes.flat, indices):
        data = dataset[index]
        with torch.no_grad():
            sample = model.test_step(pseudo_collate([data]))[0].cpu()
        axis.imshow(cv2.cvtColor(cv2.imread(sample.img_path), cv2.COLOR_BGR2RGB))
        found, truth = sample.pred_label.item(), sample.gt_label.item()
        text = f'{classes[found]} {sample.pred_score[found]:.2f}'
        if found != truth:
            text += f', is {classes[truth]}'
        colour = RIGHT if found == truth else WRONG
        axis.set_title(text, fontsize=12, color=colour, parse_math=False)
    figure.savefig(path)
    plt.close(figure)
