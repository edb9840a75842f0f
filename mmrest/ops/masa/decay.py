"""Decay of MaSA: gamma of each head, and position tables of decay and rotary embedding."""

from dataclasses import dataclass
from typing import Any, Dict, List, NamedTuple, Tuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ..dispatch import are_static, constant_in_graphs, in_graph, is_capturing, is_compiling
from ..rotary import rotary_frequencies


class PositionTables(NamedTuple):
    """Tensors of MaSA that depend only on positions; see :func:`position_tables`."""

    cos_sin: Tensor  # H W d/2 2, of one angle per pair of channels
    decay_h: Tensor  # n H H, logarithms
    decay_w: Tensor  # n W W
    log_gamma: Tensor  # n


@dataclass(eq=False)
class RelPos2d:
    """Position tables of the heads of a stage, cached for one size and device.

    Not a module, so that the tables are not in state dicts, copies or pickles. They stay float32
    when the model is cast, because flat positions reach 66,800 at 800 x 1333, beyond float16.

    A head has d = `head_dim` channels. For `a` and `b`, see :func:`log_gammas`; without `decay`,
    gamma is 1.
    """

    head_dim: int
    num_heads: int
    a: float
    b: float
    decay: bool = True

    def __post_init__(self) -> None:
        self._values = repr(self)
        self._kept: Dict[Tuple[int, int, torch.device], PositionTables] = {}
        self._captured: List[PositionTables] = []  # read at each replay of CUDA graphs

    def __call__(self, height: int, width: int, device: torch.device) -> PositionTables:
        """Return the tables of a map of `height` x `width` tokens."""
        if is_compiling() and not are_static(height, width):
            return self._make(height, width, device)
        # Reading a string guards a graph; other networks would otherwise reuse its constants.
        return self._cached(height, width, device, self._values)

    @constant_in_graphs
    def _cached(
        self, height: int, width: int, device: torch.device, values: str
    ) -> PositionTables:
        key = (height, width, device)
        tables = self._kept.get(key)
        if tables is None:
            # Tensors of inference mode cannot be used in a later training step.
            with torch.inference_mode(False):
                tables = self._make(height, width, device)
            if type(tables.cos_sin) is Tensor:  # not a tracer's proxy
                self._kept = {key: tables}
        if is_capturing(device):
            self._captured.append(tables)
        return tables

    def _make(self, height: int, width: int, device: torch.device) -> PositionTables:
        frequencies = rotary_frequencies(self.head_dim).to(device)
        log_gamma = log_gammas(self.num_heads, self.a, self.b).to(device)
        if not self.decay:
            log_gamma = torch.zeros_like(log_gamma)
        return position_tables(frequencies, log_gamma, height, width)

    def __getstate__(self) -> Dict[str, Any]:
        return dict(self.__dict__, _kept={}, _captured=[])


def position_tables(
    frequencies: Tensor, log_gamma: Tensor, height: int, width: int
) -> PositionTables:
    """Return the tables of a map of `height` x `width` tokens.

    The `frequencies` (d / 2,) are in radians per position; `log_gamma` (n,) is the logarithm of
    the decay per step, of each head.
    """
    options = dict(device=frequencies.device, dtype=frequencies.dtype)
    angle = torch.arange(height * width, **options)[:, None] * frequencies
    return PositionTables(
        torch.stack((angle.cos(), angle.sin()), dim=-1).unflatten(0, (height, width)),
        decay_table(log_gamma, height),
        decay_table(log_gamma, width),
        log_gamma,
    )


def log_gammas(num_heads: int, a: float, b: float) -> Tensor:
    """Return log(gamma) of each head, (n,) float32 on the CPU (RMT, "Manhattan Self-Attention").

    As in the official code, ``gamma_i = 1 - 2^(-a - (b - a) i / n)``: a is the exponent of the
    first head, the most local one, and b the one that the heads approach.
    """
    head = torch.arange(num_heads, device='cpu', dtype=torch.float32)
    return torch.log(1 - 2 ** (-a - (b - a) * head / num_heads))


def decay_table(log_gamma: Tensor, length: int) -> Tensor:
    """Return the logarithm of the decay between the positions of one axis.

    It is ``log_gamma * |i - j|``, (n, length, length), for the log(gamma) of each head, (n,).
    """
    position = torch.arange(length, device=log_gamma.device)
    distance = (position[:, None] - position[None, :]).abs()
    return log_gamma[:, None, None] * distance


def full_decay(decay_h: Tensor, decay_w: Tensor) -> Tensor:
    """Return the logarithm of the decay, (n, rows * W, H * W), from (n, rows, H) and (n, W, W)."""
    decay = decay_h[:, :, None, :, None] + decay_w[:, None, :, None, :]
    return decay.flatten(3).flatten(1, 2)


def cached_full_decay(tables: PositionTables) -> Tensor:
    """Return :func:`full_decay`, cached for the lifetime of the tables."""
    if in_graph():
        return full_decay(tables.decay_h, tables.decay_w)
    decay = _full_decays.get(tables.decay_h)
    if decay is None:
        # Tensors of inference mode cannot be used in a later training step.
        with torch.inference_mode(False):
            decay = _full_decays[tables.decay_h] = full_decay(tables.decay_h, tables.decay_w)
    return decay


_full_decays = WeakIdKeyDictionary()
