"""Loaded tensors, and messages about the others."""

import pytest
import torch

from mmrest.checkpoint import CheckpointError, match

STATE = dict(a=torch.ones(2), b=torch.zeros(3))


def test_match():
    wanted = dict(
        STATE, **{'bn.num_batches_tracked': torch.tensor(0), 'norm1.weight': torch.ones(1)}
    )
    tensors, report = match('f', dict(STATE, head=torch.ones(1)), wanted, optional=('norm1.',))
    assert tensors.keys() == STATE.keys()
    assert report == (
        '2 of 3 tensors loaded from f; 1 are not in the file and keep their initial values '
        '(norm1.weight); 1 of the file are not in the network and ignored (head)'
    )
    with pytest.raises(CheckpointError) as error:
        match('f', {'a': STATE['a'], 'b': torch.ones(4), 'head': torch.ones(1)}, wanted)
    assert str(error.value) == (
        'f does not match the model: 1 of 3 tensors matched, 1 missing (norm1.weight), 1 of '
        'another shape (b (4,) instead of (3,)), 1 in the file under other names (head)'
    )


def test_other_blocks():
    wanted = {'blocks.0.a': torch.ones(1)}
    found = dict(wanted, **{'blocks.1.a': torch.ones(1)})
    assert match('f', found, wanted)[0].keys() == wanted.keys()
    with pytest.raises(CheckpointError, match=r'1 tensors of .* layers .* \(blocks.1.a\)'):
        match('f', found, wanted, closed=('blocks.',))
