"""Dense labels follow the image through its augmentations, and bad files are reported."""

import os

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import TRANSFORMS
from mmpretrain.utils import register_all_modules
from torchvision.ops import roi_align

from mmrest.checkpoint import CheckpointError
from mmrest.classification.token_maps import LoadTokenLabels, crop_coords, sample
from tests.checkpoint.test_safety import Call

IMAGE = '/images/train/dogs/a.JPEG'
HEIGHT, WIDTH = 60, 90
WHOLE = (0, 0, 1, 1)
CROP = dict(scale=(64, 96), backend='cv2', interpolation='bilinear')
FLIP = dict(prob=0.5, direction=['horizontal', 'vertical'])
AUGMENT = dict(num_policies=2, total_level=10, magnitude_level=9, magnitude_std=0.5)
MOVES = [
    dict(type='Rotate', magnitude_range=(0, 30)),
    dict(type='Shear', magnitude_range=(0, 0.3), direction='horizontal'),
    dict(type='Shear', magnitude_range=(0, 0.3), direction='vertical'),
    dict(type='Translate', magnitude_range=(0, 0.45), direction='horizontal'),
    dict(type='Translate', magnitude_range=(0, 0.45), direction='vertical'),
]


@pytest.fixture(autouse=True)
def _registered():
    register_all_modules()
    np.random.seed(0)


def build(kind, **arguments):
    return TRANSFORMS.build(dict(type=kind, _scope_='mmpretrain', **arguments))


def written(folder, content):
    """Write the labels of IMAGE, bytes or what torch or numpy saves; return their path."""
    path = folder / 'dogs' / ('a.npy' if isinstance(content, np.ndarray) else 'a.pt')
    path.parent.mkdir()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, np.ndarray):
        np.save(path, content)
    elif content is not None:
        torch.save(content, path)
    return path


def test_crop_and_flip_agree_with_roi_align():
    maps = torch.randn(3, 9, 13)
    crop = build('TrackedResizedCrop', **CROP)
    flip = build('TrackedFlip', **FLIP)
    seen = set()
    for seed in range(30):
        np.random.seed(seed)
        top, left, height, width = crop.rand_crop_params(np.zeros((HEIGHT, WIDTH, 3)))
        np.random.seed(seed)
        results = flip(crop(dict(img=np.zeros((HEIGHT, WIDTH, 3), np.uint8))))
        box = [left / WIDTH * 13, top / HEIGHT * 9]
        box += [(left + width) / WIDTH * 13, (top + height) / HEIGHT * 9]
        expected = roi_align(maps[None], [torch.tensor([box])], (2, 3), 1, 4, aligned=True)[0]
        direction = results['flip_direction'] if results['flip'] else None
        dims = {None: [], 'horizontal': [2], 'vertical': [1]}[direction]
        seen.add(direction)
        found = sample(maps, results['coords'], (2, 3))
        torch.testing.assert_close(found, expected.flip(dims), rtol=0, atol=1e-4)
    assert len(seen) == 3


@pytest.mark.parametrize('moves', [MOVES[:1], MOVES[1:3], MOVES[3:], MOVES])
def test_labels_go_where_the_pixels_go(moves):
    """Image and labels both encode their original position, and must agree."""
    x, y = np.meshgrid((np.arange(WIDTH) + 0.5) / WIDTH, (np.arange(HEIGHT) + 0.5) / HEIGHT)
    image = np.stack([200 * x, 200 * y, 200 * np.ones_like(x)], -1).astype(np.float32)
    maps = torch.from_numpy(image / 200).permute(2, 0, 1)
    steps = [
        build('TrackedResizedCrop', **CROP, crop_ratio_range=(0.4, 1)),
        build('TrackedFlip', **FLIP),
        build(
            'TrackedRandAugment',
            policies=moves,
            hparams=dict(pad_val=0, interpolation='bilinear', prob=1.0),
            **AUGMENT,
        ),
    ]
    away = 0
    for _ in range(20):
        results = dict(img=image.copy())
        for step in steps:
            results = step(results)
        tokens = cv2.resize(results['img'], (3, 2), interpolation=cv2.INTER_AREA) / 200
        found = sample(maps, results['coords'], (2, 3)).permute(1, 2, 0).numpy()
        np.testing.assert_allclose(found, tokens, atol=0.02)
        away += (tokens[..., 2] < 0.9).sum()
    assert away > 10  # some tokens did show what is beyond the crop


@pytest.mark.parametrize('kind, tracked, arguments', [
    ('RandomResizedCrop', 'TrackedResizedCrop', CROP),
    ('RandomFlip', 'TrackedFlip', FLIP),
    ('RandAugment', 'TrackedRandAugment', dict(policies='timm_increasing', **AUGMENT)),
])  # fmt: skip
def test_tracking_does_not_change_images(kind, tracked, arguments):
    transforms = build(tracked, **arguments), build(kind, **arguments)
    rng = np.random.default_rng(0)
    for seed in range(20):
        image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        images, draws = [], []
        for transform in transforms:
            np.random.seed(seed)
            coords = crop_coords(*WHOLE, (HEIGHT, WIDTH))
            images.append(transform(dict(img=image.copy(), coords=coords))['img'])
            draws.append(np.random.rand())
        np.testing.assert_array_equal(*images)
        assert draws[0] == draws[1]


@pytest.mark.parametrize('kind', [torch.Tensor.clone, torch.Tensor.numpy])
def test_probabilities_by_hand(tmp_path, kind):
    # One row of two cells, the two best of four classes: class 2 has 3 and 1, class 0 has 2 on
    # the left, class 3 has 4 on the right.
    content = torch.tensor([[[[3.0, 1]], [[2, 4]]], [[[2.0, 2]], [[0, 3]]]]).half()
    suffix = written(tmp_path, kind(content)).suffix
    load = LoadTokenLabels(str(tmp_path), 4, grid=[1, 2], relabel=True, suffix=suffix)
    # Half an image moved out of sight: only the left cell is left, and fills the right token.
    coords = crop_coords(0, 0, 1, 1, (64, 64))
    coords[:, 32:] = coords[:, :32]
    coords[:, :32] = 0
    results = load(dict(img_path=IMAGE, coords=coords))
    # The right token shows the left half of the image, and its samples along x lie at -3/8, -1/8,
    # 1/8 and 3/8 cells from the centre of the left cell, before which nothing changes.
    weight = np.mean([0, 0, 1 / 8, 3 / 8])
    scores = np.array([2 * (1 - weight), 0, 3 * (1 - weight) + weight, 4 * weight])
    expected = np.exp(scores) / np.exp(scores).sum()
    assert results['token_label'].shape == (4, 1, 2)
    assert results['token_label'].dtype == torch.float16
    np.testing.assert_allclose(results['token_label'][:, 0, 0], 0.25)
    np.testing.assert_allclose(results['token_label'][:, 0, 1], expected, atol=1e-3)
    halved = np.exp(scores / 2) / np.exp(scores / 2).sum()
    np.testing.assert_allclose(results['gt_score'], halved, rtol=1e-5)
    load = LoadTokenLabels(str(tmp_path), 4, suffix=suffix)
    assert 'gt_score' not in load(dict(img_path=IMAGE, coords=coords))


EVIL = Call(os.mkdir, 'evil_was_here')


def labels(ids=0.0, scores=1.0, shape=(5, 3, 3)):
    return torch.stack([torch.full(shape, scores), torch.full(shape, float(ids))]).half()


BAD = {
    'type': (dict(a=1), 'are a dict of shape (), not a tensor (2, k, H, W)'),
    'axes': (torch.zeros(5, 7, 7), 'are a Tensor of shape (5, 7, 7), not a'),
    'order': (torch.zeros(3, 3, 5, 2), 'of shape (3, 3, 5, 2), not'),
    'class': (labels(ids=10), 'contain 10; expected finite scores, and classes from 0 to 9'),
    'fraction': (labels(ids=1.5), 'contain 1.5; expected'),
    'finite': (labels(scores=float('nan')), 'contain nan; expected'),
    'pickle': (EVIL, 'it contains a pickled'),
    'pickled array': (np.array([EVIL]), 'cannot be read as an array'),
    'missing': (None, 'not found; set label_root of LoadTokenLabels to a folder with'),
    'zip': (b'PK\x03\x04 and no more', 'cannot be read as a checkpoint'),
}


@pytest.mark.parametrize('content, message', BAD.values(), ids=BAD)
def test_bad_files(content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, content)
    load = LoadTokenLabels(str(tmp_path), 10, suffix=path.suffix)
    with pytest.raises(CheckpointError) as error:
        load(dict(img_path=IMAGE, coords=None))
    line = str(error.value)
    assert str(path) in line and message in line and '\n' not in line
    assert not (tmp_path / 'evil_was_here').exists()


SIDES = 'grid must be one or two positive integers, got'


@pytest.mark.parametrize('arguments, message', [
    (dict(suffix='.npz'), "suffix must be '.pt' or '.npy', got '.npz'"),
    (dict(num_classes=0), 'num_classes must be a positive integer, got 0'),
    (dict(grid='77'), f"{SIDES} '77'"),
    (dict(grid=(7, 0)), f'{SIDES} (7, 0)'),
])  # fmt: skip
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError) as error:
        LoadTokenLabels('labels', **arguments)
    assert str(error.value) == message


def test_untracked_image():
    with pytest.raises(ValueError, match='needs TrackedResizedCrop before it'):
        LoadTokenLabels('labels')(dict(img_path=IMAGE))
