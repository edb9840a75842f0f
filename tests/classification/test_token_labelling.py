"""Token labelling: MixToken, the loss by hand, and what evaluation ignores."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmpretrain.structures import DataSample
from mmpretrain.utils import register_all_modules

from mmrest import RMT
from mmrest.classification import TokenLabelHead, token_labelling
from mmrest.classification.token_labelling import sample_region, swap
from tests.classification.networks import CLASSES, small_arch, small_token_labelling
from tests.classification.test_recipes import check_step
from tests.models.networks import TINY


def of_edges(top, bottom, left, right, height=1, width=2):
    """A region of a grid."""
    region = torch.zeros(height, width, dtype=torch.bool)
    region[top:bottom, left:right] = True
    return region


def test_regions_are_boxes_of_every_size():
    np.random.seed(0)
    found = torch.stack([sample_region(7, 5) for _ in range(2000)])
    rows, columns = found.any(2), found.any(1)
    assert torch.equal(found, rows[:, :, None] & columns[:, None])
    assert {*rows.sum(1).tolist()} == {*range(7)} and {*columns.sum(1).tolist()} == {*range(5)}
    assert (rows.sum(0) > 100).all() and (rows.int().diff(dim=1).abs().sum(1) <= 2).all()


def test_swap_takes_the_region_of_the_flipped_batch():
    x = torch.randn(3, 2, 16, 21)  # the border crops the last column of cells
    mixed = swap(x, of_edges(0, 1, 1, 3, 2, 3), cell=8)
    inside = torch.zeros(16, 21, dtype=torch.bool)
    inside[0:8, 8:] = True
    assert torch.equal(mixed, torch.where(inside, x.flip(0), x))


def batch(count=4, height=64, width=96, stride=32):
    """Images and samples with the labels of a grid of tokens."""
    samples = []
    for index in range(count):
        sample = DataSample().set_gt_label(index % CLASSES)
        labels = torch.randn(CLASSES, height // stride, width // stride).softmax(0)
        sample.set_field(labels.half(), 'token_label')
        samples.append(sample)
    images = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8)
    return dict(inputs=images, data_samples=samples)


def cross_entropy(pairs):
    """Mean for pairs of the wanted and the found probability of the first of two classes."""
    losses = [-(t * math.log(p) + (1 - t) * math.log(1 - p)) for t, p in pairs]
    return sum(losses) / len(losses)


HALF, MUCH = 0.5, 0.75
"""Probabilities of class 0 where its logit is 0 and log(3)."""
BY_HAND = {
    # smoothing, region of the tokens, probabilities from a teacher; then what is learnt: class 0
    # of both images, and of left and right token of both.
    'right half mixed': (0.0, of_edges(0, 1, 1, 2), None, (0.5, 0.5), (1, 0, 0, 1)),
    'smoothed, nothing mixed': (0.2, of_edges(0, 0, 0, 0), None, (0.9, 0.1), (0.9, 0.9, 0.1, 0.1)),
    'scores of a teacher': (0.0, of_edges(0, 1, 0, 1), (0.25, 0.75), (0.25, 0.25), (0, 1, 1, 0)),
}


@pytest.mark.parametrize(
    'smoothing, region, scores, images, tokens', BY_HAND.values(), ids=BY_HAND
)
def test_the_loss_by_hand(smoothing, region, scores, images, tokens):
    """Two images of 1 x 2 tokens, of class 0 and of class 1; the logit of class 1 is 0."""
    register_all_modules(False)
    loss = dict(type='mmpretrain.LabelSmoothLoss', label_smooth_val=smoothing, mode='original')
    head = TokenLabelHead(num_classes=2, in_channels=1, token_channels=1, loss=loss)
    with torch.no_grad():
        for layer in (head.fc, head.aux_fc):
            layer.weight.copy_(torch.tensor([[1.0], [0.0]]))
            layer.bias.zero_()
    averages = torch.tensor([[math.log(3)], [0.0]])
    maps = torch.tensor([[math.log(3), 0.0], [0.0, math.log(3)]])[:, None, None, :]
    samples = [DataSample().set_gt_label(label) for label in (0, 1)]
    for sample, label in zip(samples, (0, 1)):
        one_hot = F.one_hot(torch.tensor([[label, label]]), 2).permute(2, 0, 1)
        sample.set_field(one_hot.half(), 'token_label')
        if scores is not None:
            sample.set_gt_score(torch.tensor(scores))
    losses = head.loss((averages, maps), samples, region)
    expected = cross_entropy(zip(images, (MUCH, HALF)))
    assert losses.pop('loss_cls').item() == pytest.approx(expected, rel=1e-6)
    expected = 0.5 * cross_entropy(zip(tokens, (MUCH, HALF, HALF, MUCH)))
    assert losses.pop('loss_dense').item() == pytest.approx(expected, rel=1e-6)
    assert not losses


STEMS = {
    # arch, stride of the last map, tokens of the stem along a side of one of its tokens
    'rmt': (TINY[RMT], 32, 8),
    'fine patches': (dict(TINY[RMT], conv_stem=False, patch_size=2), 16, 8),
    'swin': (TINY['swin'], 8, 2),
    'deit': (TINY['deit'], 16, 1),
}
REGIONS = [(stem, (0, 1, 1, 3)) for stem in STEMS]
REGIONS += [('rmt', edges) for edges in ((1, 2, 0, 1), (0, 2, 0, 3), (1, 1, 0, 2))]


@pytest.mark.parametrize('stem, edges', REGIONS)
def test_tokens_and_dense_labels_are_swapped_in_the_same_region(stem, edges, monkeypatch):
    arch, stride, cell = STEMS[stem]
    region = of_edges(*edges, 2, 3)
    _, model = small_token_labelling(arch=arch)
    model.train()
    monkeypatch.setattr(token_labelling, 'sample_region', lambda height, width: region)
    seen = {'labels': []}
    model.backbone.patch_embed.register_forward_hook(lambda *call: seen.update(stem=call[2]))
    model.backbone.blocks(0)[0].register_forward_hook(lambda *call: seen.update(block=call[1]))
    model.head.loss_module.register_forward_hook(lambda *call: seen['labels'].append(call[1][1]))
    data = model.data_preprocessor(batch(4, 2 * stride, 3 * stride, stride), True)
    original = torch.stack([sample.token_label for sample in data['data_samples']]).float()
    model(**data, mode='loss')

    entered = seen['block'][0].permute(0, 3, 1, 2)
    moved = (entered != seen['stem']).flatten(0, 1).any(0)  # tokens of the stem
    cells = moved.unfold(0, cell, cell).unfold(1, cell, cell).flatten(2)
    assert torch.equal(cells.all(-1), cells.any(-1))  # only complete cells
    assert torch.equal(entered[:, :, moved], seen['stem'].flip(0)[:, :, moved])

    images, dense = sorted(seen['labels'], key=len)
    dense = dense.unflatten(0, (4, 2, 3)).permute(0, 3, 1, 2)
    relabelled = (dense != original).flatten(0, 1).any(0)
    assert torch.equal(relabelled, cells.all(-1))
    assert torch.equal(dense[:, :, relabelled], original.flip(0)[:, :, relabelled])
    assert torch.equal(relabelled, region)

    one_hot = F.one_hot(torch.arange(4), CLASSES).float()
    share = float(region.float().mean())
    torch.testing.assert_close(images, (1 - share) * one_hot + share * one_hot.flip(0))


def test_evaluation_ignores_labels():
    _, model = small_token_labelling()
    model.eval()
    labelled = batch()
    with torch.no_grad():
        with_labels = model.test_step(labelled)
        without = model.test_step(dict(inputs=labelled['inputs']))
        inputs = model.data_preprocessor(labelled, False)['inputs']
        logits, (averages, tokens) = model(inputs), model.extract_feat(inputs)
    for a, b, c in zip(with_labels, without, logits.softmax(-1)):
        assert torch.equal(a.pred_score, b.pred_score)
        torch.testing.assert_close(a.pred_score, c)
    each = model.head.aux_fc(tokens.flatten(2).mT)
    assert each.shape == (4, 6, CLASSES)
    torch.testing.assert_close(logits, model.head.fc(averages) + 0.5 * each.max(1)[0])


@pytest.mark.parametrize('size, tokens, dtype', [
    ('s', 'projected', torch.float32), ('b', 'last', torch.bfloat16), ('l', 'last', torch.float32),
])  # fmt: skip
def test_a_step_updates_every_parameter(size, tokens, dtype):
    cfg, model = small_token_labelling(tokens, small_arch(size), size)
    data = model.data_preprocessor(batch(), True)
    assert set(check_step(cfg, model, data, dtype)) == {'loss', 'loss_cls', 'loss_dense'}


@pytest.mark.parametrize('break_it, found', [
    (lambda sample: delattr(sample, 'token_label'), 'None'),
    (lambda sample: sample.set_field(torch.zeros(CLASSES, 7, 7), 'token_label'), r'\(5, 7, 7\)'),
])  # fmt: skip
def test_missing_or_misshapen_labels(break_it, found):
    _, model = small_token_labelling()
    data = model.data_preprocessor(batch(), True)
    break_it(data['data_samples'][1])
    with pytest.raises(ValueError, match=rf'is {found}, but classes and tokens are \(5, 2, 3\)'):
        model(**data, mode='loss')
