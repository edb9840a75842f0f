"""The attentions under test, as functions of their tensors."""

from typing import Callable, NamedTuple

import torch

from mmrest import ops


class Attention(NamedTuple):
    """An attention.

    Attributes:
        inputs: takes batch, two lengths (queries and keys, or height and width), heads and
            channels, and a scale of queries and keys; returns tensors in float64.
        fused: takes the tensors; computed by the chosen backend.
        reference: the same by the reference.
    """

    inputs: Callable
    fused: Callable
    reference: Callable


def emsa_inputs(batch, queries, keys, heads, dim, scale=1.0):
    lengths = (queries, keys, keys)
    q, k, v = (torch.randn(batch, heads, n, dim, dtype=torch.float64) for n in lengths)
    mix = (torch.randn(heads, heads, 1, 1).double(), torch.randn(heads).double())
    return (scale * q, scale * k, v, *(mix if heads > 1 else ()))


def masa_inputs(batch, height, width, heads, dim, scale=1.0):
    shape = (batch, height, width, heads, dim)
    q, k, v = (torch.randn(shape, dtype=torch.float64) for _ in range(3))
    return scale * q, scale * k, v


def gammas(heads):
    return [1 - 2 ** -(2 + 4 * i / heads) for i in range(heads)]


def frequencies_of(dim):
    return 10000 ** -torch.linspace(0, 1, dim // 2, dtype=torch.float64)


def tables_for(q):
    """Tables as a network has them: float32, cast to a wider type.

    Decays are not rounded to float32, because the kernels compute them in the wider type.
    """
    height, width, heads, dim = q.shape[1:]
    wide = torch.promote_types(q.dtype, torch.float32)
    log_gamma = torch.tensor(gammas(heads)).log().to(wide)
    tables = ops.position_tables(frequencies_of(dim).float(), log_gamma, height, width)
    return ops.PositionTables(*(table.to(wide) for table in tables))


def _masa(axial, reference):
    return Attention(
        masa_inputs,
        lambda q, k, v: ops.masa(q, k, v, tables_for(q), axial),
        lambda q, k, v: reference(q, k, v, tables_for(q)),
    )


ATTENTIONS = {
    'emsa': Attention(emsa_inputs, ops.emsa, ops.emsa_reference),
    'masa_full': _masa(False, ops.masa_full_reference),
    'masa_axial': _masa(True, ops.masa_axial_reference),
}
