"""Memory of the attention alone, by size of the image."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Tuple

import torch
from torch import Tensor

from ..ops import emsa, masa, position_tables, use_backend
from .measure import kept_bytes


class Attention(NamedTuple):
    """An attention as a stage of a network has it.

    Attributes:
        stride: pixels of the image a token, along an axis.
        heads: number of heads.
        dim: channels of a head.
        kind: 'emsa', 'full' or 'axial'.
        reduction: stride at which EMSA reduces keys and values.
    """

    stride: int
    heads: int
    dim: int
    kind: str
    reduction: int = 1

    def tokens(self, side: int) -> int:
        """Of a square image."""
        return (side // self.stride) ** 2

    def map_elements(self, side: int) -> int:
        """Elements of the attention maps that the plain form stores for a square image."""
        tokens = self.tokens(side)
        if self.kind == 'axial':
            return self.heads * tokens * (side // self.stride)
        return self.heads * tokens * tokens // self.reduction**2


ATTENTIONS = {
    'EMSA, stage 2 of ResT-Small': Attention(8, 2, 64, 'emsa', reduction=4),
    'axial MaSA, stage 1 of RMT-S': Attention(4, 4, 16, 'axial'),
    'full MaSA, stage 3 of RMT-T': Attention(16, 8, 32, 'full'),
}


class AttentionMemory(NamedTuple):
    """Memory of a forward and backward pass of an attention, in MB.

    Attributes:
        kept: what autograd keeps for the backward pass, the attention's arguments left out.
        peak: by how much the process grew, with the result and all gradients.
    """

    kept: float
    peak: float


def attention_memory(attention: Attention, side: int, backend: str) -> AttentionMemory:
    """Memory of an attention for one square image, float32, on the CPU of a Linux system.

    It is measured in a process of its own, whose memory is not in pieces yet.
    """
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_attention_memory, attention, side, backend).result()


def _attention_memory(attention: Attention, side: int, backend: str) -> AttentionMemory:
    with use_backend(backend):
        run, _ = _prepared(attention, 8 * attention.stride)
        run().sum().backward()  # loads what torch loads at its first use
        run, arguments = _prepared(attention, side)
        Path('/proc/self/clear_refs').write_text('5')  # sets the peak back to what is held now
        before = _resident_mb('VmRSS')
        out = run()
        out.backward(torch.ones(()).expand_as(out))
        peak = _resident_mb('VmHWM') - before
        return AttentionMemory(kept_bytes(run, arguments) / 2**20, peak)


def _prepared(attention: Attention, side: int) -> Tuple[Callable[[], Tensor], List[Tensor]]:
    """The attention of random arguments, and these."""
    length, heads, dim = side // attention.stride, attention.heads, attention.dim
    if attention.kind == 'emsa':
        keys = (length // attention.reduction) ** 2
        shapes = [(1, heads, tokens, dim) for tokens in (length**2, keys, keys)]
        arguments = [torch.randn(shape, requires_grad=True) for shape in shapes]
        mix = torch.randn(heads, heads, 1, 1, requires_grad=True)
        return partial(emsa, *arguments, mix), [*arguments, mix]
    shape = (1, length, length, heads, dim)
    arguments = [torch.randn(shape, requires_grad=True) for _ in range(3)]
    frequencies = 1 / 10000 ** torch.linspace(0, 1, dim // 2)
    tables = position_tables(frequencies, torch.linspace(-0.3, -0.01, heads), length, length)
    run = partial(masa, *arguments, tables, attention.kind == 'axial')
    return run, [*arguments, *tables]


def _resident_mb(field: str) -> float:
    lines = Path('/proc/self/status').read_text().splitlines()
    values: Dict[str, str] = dict(line.split(':', 1) for line in lines)
    return int(values[field].split()[0]) / 2**10
