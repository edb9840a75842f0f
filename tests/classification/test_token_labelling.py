"""Token labelling: parameters, the loss by hand, what is mixed, and what evaluation ignores."""

import math

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from mmpretrain.structures import DataSample
from mmpretrain.utils import register_all_modules

from mmrest import RMT
from mmrest.checkpoint import CheckpointError
from mmrest.classification import TokenLabelHead, token_labelling
from mmrest.classification.mix_token import Box
from tests.classification.networks import released_name, small_arch
from tests.models.networks import TINY
from tests.tools.runs import ROOT

CLASSES = 5


def config(size):
    register_all_modules(False)
    return Config.fromfile(ROOT / 'configs' / f'imagenet_rmt_{size}_tl_310e.py')


def build(cfg):
    cfg.model.data_preprocessor = cfg.data_preprocessor
    return MODELS.build(cfg.model)


def small(tokens='projected', arch=TINY[RMT], size='s'):
    """The config of a size with a small network of few classes, and its model."""
    cfg = config(size)
    dims = arch['dims']
    channels = dims[-1] if tokens == 'last' else 16
    cfg.merge_from_dict(
        dict(
            model=dict(
                backbone=dict(
                    arch=dict(_delete_=True, **arch),
                    out_indices=(len(dims) - 1,),
                    drop_path_rate=0.0,
                ),
                neck=dict(in_channels=dims[-1], out_channels=16, tokens=tokens),
                head=dict(in_channels=16, token_channels=channels, num_classes=CLASSES),
            ),
            data_preprocessor=dict(num_classes=CLASSES),
        )
    )
    model = build(cfg)
    model.init_weights()
    return cfg, model


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


@pytest.mark.parametrize(
    'size, options, parameters',
    [
        ('s', {}, 27_992_240),
        (
            's',
            {'model.neck.tokens': 'last', 'model.head.token_channels': 512},
            27_480_240,
        ),
        ('b', {}, 54_667_896),
        ('l', {}, 96_105_864),
    ],
)
def test_parameters_are_those_of_the_authors(size, options, parameters):
    cfg = config(size)
    cfg.merge_from_dict(options)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize('tokens', ['last', 'projected'])
def test_a_released_file_loads_whole(tokens, tmp_path):
    _, model = small(tokens)
    released = {name: torch.randn_like(v.float()).to(v) for name, v in released_names(model)}
    assert released['aux_head.weight'].shape == (CLASSES, 32 if tokens == 'last' else 16)
    assert {'head.weight', 'aux_head.bias', 'proj.weight', 'patch_embed.proj.0.weight'} < set(
        released
    )
    released['layers.0.Relpos.angle'] = torch.zeros(4)  # derived, as the released code keeps it
    torch.save(dict(model=released), tmp_path / 'released.pth')
    model.load_pretrained(str(tmp_path / 'released.pth'))
    for name, tensor in released_names(model):
        assert torch.equal(tensor, released[name]), name
    del released['aux_head.weight']
    torch.save(dict(model=released), tmp_path / 'plain.pth')
    with pytest.raises(CheckpointError, match=r'aux_fc\.weight'):
        model.load_pretrained(str(tmp_path / 'plain.pth'))


def released_names(model):
    state = model.state_dict()
    return [(released_name(own).replace('head.aux_fc', 'aux_head'), state[own]) for own in state]


def hand_made_head(smoothing=0.0):
    """Two classes, one channel, whose value is the logit of class 0; that of class 1 is 0."""
    head = TokenLabelHead(
        num_classes=2,
        in_channels=1,
        token_channels=1,
        loss=dict(type='mmpretrain.LabelSmoothLoss', label_smooth_val=smoothing, mode='original'),
    )
    with torch.no_grad():
        for layer in (head.fc, head.aux_fc):
            layer.weight.copy_(torch.tensor([[1.0], [0.0]]))
            layer.bias.zero_()
    return head


THREE = math.log(3)
"""A logit that gives class 0 the probability 3/4."""


def hand_made_features():
    averages = torch.tensor([[THREE], [0.0]])
    tokens = torch.tensor([[THREE, 0.0], [0.0, THREE]])[:, None, None, :]  # two images of 1 x 2
    return averages, tokens


def hand_made_samples():
    """Image 0 is all of class 0, image 1 all of class 1."""
    samples = [DataSample().set_gt_label(label) for label in (0, 1)]
    for sample, label in zip(samples, (0, 1)):
        one_hot = F.one_hot(torch.tensor([[label, label]]), 2).permute(2, 0, 1)
        sample.set_field(one_hot.half(), 'token_label')
    return samples


def test_the_loss_is_that_of_a_hand_computed_example():
    register_all_modules(False)
    right = Box(top=0, bottom=1, left=1, right=2)  # half of the tokens
    losses = hand_made_head().loss(hand_made_features(), hand_made_samples(), right)
    # Both images are half of class 0 and half of class 1.
    first = -(0.5 * math.log(3 / 4) + 0.5 * math.log(1 / 4))
    assert losses['loss_cls'].item() == pytest.approx((first + math.log(2)) / 2, rel=1e-6)
    # Left tokens keep their labels, 0 and 1; right ones have 1 and 0.
    tokens = [-math.log(3 / 4), math.log(2), math.log(2), -math.log(3 / 4)]
    assert losses['loss_dense'].item() == pytest.approx(0.5 * sum(tokens) / 4, rel=1e-6)
    assert set(losses) == {'loss_cls', 'loss_dense'}


def test_the_loss_by_hand_with_smoothed_labels_and_nothing_mixed():
    register_all_modules(False)
    head = hand_made_head(smoothing=0.2)
    losses = head.loss(hand_made_features(), hand_made_samples(), Box(0, 0, 0, 0))
    first = -(0.9 * math.log(3 / 4) + 0.1 * math.log(1 / 4))
    assert losses['loss_cls'].item() == pytest.approx((first + math.log(2)) / 2, rel=1e-6)
    last = -(0.1 * math.log(3 / 4) + 0.9 * math.log(1 / 4))
    dense = 0.5 * (first + 2 * math.log(2) + last) / 4
    assert losses['loss_dense'].item() == pytest.approx(dense, rel=1e-6)


def test_scores_of_a_teacher_take_the_place_of_the_class():
    register_all_modules(False)
    samples = hand_made_samples()
    for sample in samples:
        sample.set_gt_score(torch.tensor([0.25, 0.75]))
    losses = hand_made_head().loss(hand_made_features(), samples, Box(0, 1, 0, 1))
    first = -(0.25 * math.log(3 / 4) + 0.75 * math.log(1 / 4))
    assert losses['loss_cls'].item() == pytest.approx((first + math.log(2)) / 2, rel=1e-6)


STEMS = {
    # arch, stride of the last map, tokens of the stem along a side of one of its tokens
    'rmt': (TINY[RMT], 32, 8),
    'fine patches': (dict(TINY[RMT], conv_stem=False, patch_size=2), 16, 8),
    'swin': (TINY['swin'], 8, 2),
    'deit': (TINY['deit'], 16, 1),
}


@pytest.mark.parametrize('arch, stride, cell', STEMS.values(), ids=STEMS)
@pytest.mark.parametrize(
    'box', [Box(0, 1, 1, 3), Box(1, 2, 0, 1), Box(0, 2, 0, 3), Box(1, 1, 0, 2)]
)
def test_tokens_and_dense_labels_are_swapped_in_the_same_region(
    box, arch, stride, cell, monkeypatch
):
    _, model = small(arch=arch)
    model.train()
    monkeypatch.setattr(token_labelling, 'draw_box', lambda height, width: box)
    seen = {}

    def look(name):
        return lambda module, args, *_: seen.update({name: (args, *_)})

    model.backbone.patch_embed.register_forward_hook(look('stem'))
    model.backbone.blocks(0)[0].register_forward_hook(look('block'))
    model.head.loss_module.register_forward_hook(
        lambda module, args, *_: seen.setdefault('labels', []).append(args[1])
    )
    data = model.data_preprocessor(batch(4, 2 * stride, 3 * stride, stride), True)
    original = torch.stack([sample.token_label for sample in data['data_samples']]).float()
    model(**data, mode='loss')

    stem = seen['stem'][1]
    entered = seen['block'][0][0].permute(0, 3, 1, 2)
    moved = (entered != stem).flatten(0, 1).any(0)  # tokens of the stem
    cells = moved.unfold(0, cell, cell).unfold(1, cell, cell).flatten(2)
    assert torch.equal(cells.all(-1), cells.any(-1))  # whole cells alone
    assert torch.equal(entered[:, :, moved], stem.flip(0)[:, :, moved])

    dense = next(labels for labels in seen['labels'] if len(labels) == 4 * 6)
    dense = dense.unflatten(0, (4, 2, 3)).permute(0, 3, 1, 2)
    relabelled = (dense != original).flatten(0, 1).any(0)
    assert torch.equal(relabelled, cells.all(-1))
    assert torch.equal(dense[:, :, relabelled], original.flip(0)[:, :, relabelled])
    expected = torch.zeros(2, 3, dtype=torch.bool)
    expected[box.top : box.bottom, box.left : box.right] = True
    assert torch.equal(relabelled, expected)

    images = next(labels for labels in seen['labels'] if len(labels) == 4)
    one_hot = F.one_hot(torch.arange(4), CLASSES).float()
    share = box.area / 6
    torch.testing.assert_close(images, (1 - share) * one_hot + share * one_hot.flip(0))


def test_every_step_draws_another_region(monkeypatch):
    _, model = small()
    boxes = []
    draw = token_labelling.draw_box
    monkeypatch.setattr(
        token_labelling, 'draw_box', lambda *size: boxes.append(draw(*size)) or boxes[-1]
    )
    data = model.data_preprocessor(batch(2, 128, 160), True)
    for _ in range(8):
        model(**data, mode='loss')
    assert len(set(boxes)) > 2
    assert all(box.bottom <= 4 and box.right <= 5 for box in boxes)


def test_evaluation_ignores_labels():
    _, model = small()
    model.eval()
    labelled = batch()
    bare = dict(inputs=labelled['inputs'])
    with torch.no_grad():
        with_labels = model.test_step(labelled)
        without = model.test_step(bare)
        again = model.test_step(bare)
        logits = model(**model.data_preprocessor(bare, False), mode='tensor')
        averages, tokens = model.extract_feat(model.data_preprocessor(bare, False)['inputs'])
    for a, b, c, d in zip(with_labels, without, again, logits.softmax(-1)):
        assert torch.equal(a.pred_score, b.pred_score) and torch.equal(a.pred_score, c.pred_score)
        torch.testing.assert_close(a.pred_score, d)
    each = model.head.aux_fc(tokens.flatten(2).mT)
    assert each.shape == (4, 6, CLASSES)
    torch.testing.assert_close(logits, model.head.fc(averages) + 0.5 * each.max(1)[0])


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    'size, tokens', [('s', 'last'), ('s', 'projected'), ('b', 'last'), ('l', 'last')]
)
def test_a_step_updates_every_parameter(size, tokens, dtype):
    """At the highest rate of the recipe; the second step moves what a layer scale hid."""
    cfg, model = small(tokens, small_arch(size), size)
    model.train()
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for _ in range(2 if any(model.backbone.arch.layer_scale) else 1):
        with torch.autocast('cpu', dtype=dtype, enabled=dtype != torch.float32):
            data = model.data_preprocessor(batch(), True)
            loss, parts = model.parse_losses(model(**data, mode='loss'))
        assert set(parts) == {'loss', 'loss_cls', 'loss_dense'} and loss.isfinite()
        optimizer.zero_grad()
        loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad.isfinite().all() and parameter.grad.any(), name
        optimizer.optimizer.step()
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all(), name
        assert not torch.equal(parameter, before[name]), name


@pytest.mark.parametrize(
    'break_it, message',
    [
        (lambda sample: delattr(sample, 'token_label'), 'the training pipeline needs'),
        (
            lambda sample: sample.set_field(torch.zeros(CLASSES, 7, 7), 'token_label'),
            r'token_label is \(5, 7, 7\), but classes and tokens are \(5, 2, 3\): set',
        ),
    ],
)
def test_labels_that_are_missing_or_of_another_grid(break_it, message):
    _, model = small()
    data = model.data_preprocessor(batch(), True)
    break_it(data['data_samples'][1])
    with pytest.raises(ValueError, match=message):
        model(**data, mode='loss')


def test_learning_lowers_both_losses():
    cfg, model = small()
    cfg.optim_wrapper.optimizer.lr = 1e-2
    model.train()
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    data = model.data_preprocessor(batch(4, 32, 64), True)
    history = []
    for _ in range(25):
        loss, parts = model.parse_losses(model(**data, mode='loss'))
        optimizer.update_params(loss)
        history.append((parts['loss_cls'].item(), parts['loss_dense'].item()))
    assert all(last < first for first, last in zip(history[0], history[-1])), history
