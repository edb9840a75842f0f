"""Pictures of predictions, beside the ground truth."""

import io
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence, Set, Tuple

import cv2
import matplotlib
import numpy as np
import torch
from mmengine.dataset import BaseDataset, pseudo_collate
from torch import nn

from .labels import Box, free_place
from .legends import add_legend

matplotlib.use('Agg')  # files only, with or without a screen
from matplotlib import pyplot as plt

Colour = Tuple[float, float, float]


class Label(NamedTuple):
    """What to write at an instance: text, box (left, top, right, bottom) and colour."""

    text: str
    box: Box
    colour: Colour


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
        len(indices),
        3,
        figsize=(12, 3.4 * len(indices)),
        dpi=110,
        squeeze=False,
        layout='constrained',
    )
    labels: List[Tuple[Any, List[Label]]] = []
    present: Set[int] = set()
    for column, title in zip(axes[0], ('image', 'ground truth', 'prediction')):
        column.set_title(title, fontsize=14)
    classes, palette = dataset.metainfo['classes'], palette_of(dataset.metainfo)
    model.eval()
    for row, index in zip(axes, indices):
        data = dataset[index]
        with torch.no_grad():
            sample = model.test_step(pseudo_collate([data]))[0].cpu()
        image = cv2.cvtColor(cv2.imread(sample.img_path), cv2.COLOR_BGR2RGB)
        # Colours stand for classes there, so the image keeps its own in the first column alone.
        grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        for axis, background in zip(row, (image, grey, grey)):
            axis.imshow(background)
            axis.set_axis_off()
        if 'pred_instances' in sample:
            found = sample.pred_instances
            truth = _on_image(data['data_samples'].gt_instances, sample)
            found = found[found.scores >= score_thr]
            for axis, instances in ((row[1], truth), (row[2], found)):
                labels.append((axis, _draw_instances(axis, instances, classes, palette)))
                present.update(instances.labels.tolist())
        else:
            for axis, name in ((row[1], 'gt_sem_seg'), (row[2], 'pred_sem_seg')):
                source = data['data_samples'] if name == 'gt_sem_seg' else sample
                label_map = getattr(source, name).data[0].numpy()
                _draw_label_map(axis, label_map, palette)
                present.update(np.unique(label_map).tolist())
    occurring = [index for index in range(len(classes)) if index in present]
    add_legend(
        figure,
        [plt.Rectangle((0, 0), 1, 1, color=palette[index]) for index in occurring],
        [classes[index] for index in occurring],
        loc='outside lower center',
        ncols=8,
        fontsize=11,
    )
    figure.draw_without_rendering()  # lays the axes out; labels are measured in their pixels
    figure.set_layout_engine('none')
    for axis, of_axis in labels:
        _write_labels(axis, of_axis)
    figure.savefig(path)
    plt.close(figure)


def draw_panel(
    path: Path, content: Any, metainfo: Dict[str, Any], width: int = 480
) -> Tuple[bytes, str]:
    """Draw one image, with what is in it.

    Args:
        path: of the image file.
        content: instances or a label map (H, W), in pixels of the file; None for the image alone.
        metainfo: of the data set.
        width: of the picture, pixels.

    Returns:
        The picture, as JPEG, and what is in it, in words.
    """
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    height = round(width * image.shape[0] / image.shape[1])
    classes, palette, inside = metainfo['classes'], palette_of(metainfo), []
    figure = plt.figure(figsize=(width / 100, height / 100), dpi=100)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_axis_off()
    if content is not None:  # colours stand for classes there
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    axis.imshow(image, aspect='auto')
    if isinstance(content, np.ndarray):
        _draw_label_map(axis, content, palette)
        numbers = np.bincount(content[content < len(classes)].ravel())
        shares = {k: number / content.size for k, number in enumerate(numbers) if number}
        inside = [f'{classes[k]} {share:.0%}' for k, share in shares.items()]
    elif content is not None:
        labels = _draw_instances(axis, content, classes, palette)
        figure.draw_without_rendering()  # labels are measured in the axes' pixels
        _write_labels(axis, labels)
        counts = Counter(classes[label] for label in content.labels.tolist())
        inside = [f'{number} {name}' for name, number in counts.items()]
    buffer = io.BytesIO()
    figure.savefig(buffer, format='jpeg', pil_kwargs=dict(quality=88))
    plt.close(figure)
    return buffer.getvalue(), ', '.join(inside) or 'nothing'


def palette_of(metainfo: Dict[str, Any]) -> List[Colour]:
    """Colours of the classes; a data set of one's own may come with none, or with too few."""
    given = metainfo.get('palette') or ()
    count = len(metainfo['classes'])
    if len(given) < count:
        return [tuple(plt.get_cmap('hsv')(index / count)[:3]) for index in range(count)]
    return [tuple(channel / 255 for channel in colour) for colour in given]


def _on_image(instances: Any, sample: Any) -> Any:
    """Ground truth at the size of the image file, from the size that the network sees."""
    height, width = sample.ori_shape[:2]
    instances = instances.clone()
    scale = instances.bboxes.new_tensor(sample.scale_factor).repeat(2)
    instances.bboxes = (
        torch.as_tensor(getattr(instances.bboxes, 'tensor', instances.bboxes)) / scale
    )
    if 'masks' in instances:
        instances.masks = torch.from_numpy(
            instances.masks.resize((height, width)).to_ndarray().astype(bool)
        )
    return instances


def _draw_instances(
    axis: Any, instances: Any, classes: Sequence[str], palette: Sequence[Colour]
) -> List[Label]:
    """Masks and boxes; returns the labels, whose places depend on the finished layout."""
    scores = getattr(instances, 'scores', None)
    if scores is not None:  # the surest lies on top
        instances = instances[scores.argsort()]
        scores = instances.scores
    labels = []
    for number in range(len(instances)):
        label = int(instances.labels[number])
        colour = palette[label]
        left, top, right, bottom = box = instances.bboxes[number].tolist()
        if 'masks' in instances:
            mask = instances.masks[number].numpy().astype(float)
            overlay = np.zeros((*mask.shape, 4))
            overlay[..., :3], overlay[..., 3] = colour, 0.55 * mask
            axis.imshow(overlay)
        axis.add_patch(
            plt.Rectangle(
                (left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=2
            )
        )
        text = classes[label] if scores is None else f'{classes[label]} {scores[number]:.2f}'
        labels.append(Label(text, tuple(box), colour))
    return labels[::-1]  # and its label has the first choice of places


def _write_labels(axis: Any, labels: Sequence[Label]) -> None:
    """Write labels at their boxes, inside the image; one that has no room is left out."""
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    picture = (left, top, right, bottom)
    taken: List[Box] = []
    for text, box, colour in labels:
        style = dict(facecolor=colour, edgecolor='none', pad=1.5)
        artist = axis.text(0, 0, text, fontsize=9, color='white', bbox=style, parse_math=False)
        # Where the patch of a label at the origin begins and how large it is, in pixels of the
        # image, whose rows count downwards.
        artist.update_bbox_position_size(axis.figure.canvas.get_renderer())
        extent = artist.get_bbox_patch().get_window_extent().padded(1)
        (x0, y1), (x1, y0) = axis.transData.inverted().transform(extent.get_points())
        place = free_place(box, (x1 - x0, y1 - y0), picture, taken)
        if place is None:
            artist.remove()
            continue
        taken.append(place)
        artist.set_position((place[0] - x0, place[1] - y0))


def _draw_label_map(axis: Any, labels: np.ndarray, palette: Sequence[Colour]) -> None:
    """Colours over the image; pixels to be ignored stay as they are."""
    overlay = np.zeros((*labels.shape, 4))
    for index, colour in enumerate(palette):
        overlay[labels == index] = (*colour, 0.7)
    axis.imshow(overlay)
