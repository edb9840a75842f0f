"""Architectures: what tells the networks of one family apart, and the checking of it."""

import math
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, Mapping, Tuple, Type, TypeVar, Union

MAX_STAGES = 4
"""A pyramid has one to four stages; mostly their strides are 4, 8, 16 and 32."""


@dataclass(frozen=True)
class Arch:
    """Fields that both families share; a tuple holds one entry a stage.

    Attributes:
        dims: channels.
        depths: number of blocks.
        num_heads: attention heads.
        drop_path_rate: drop-path rate of the last block, in [0, 1); the rates grow linearly
            from 0 at the first.
    """

    dims: Tuple[int, ...]
    depths: Tuple[int, ...]
    num_heads: Tuple[int, ...]
    drop_path_rate: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):  # what a config that went through JSON or YAML holds
                object.__setattr__(self, field.name, tuple(value))
        if not isinstance(self.dims, tuple) or not 1 <= len(self.dims) <= MAX_STAGES:
            raise ValueError(f'arch: dims must list 1 to {MAX_STAGES} stages, got {self.dims!r}')
        for name in ('dims', 'depths', 'num_heads'):
            self.check_per_stage(name, is_positive_int, 'positive integers')
        check_rate('arch: drop_path_rate', self.drop_path_rate)
        if self.halves_first_dim and self.dims[0] % 2:
            raise ValueError(
                'arch: dims[0] must be even, because the stem begins with half of it, got '
                f'{self.dims[0]}'
            )
        for stage, (dim, heads) in enumerate(zip(self.dims, self.num_heads)):
            if dim % heads:
                raise ValueError(
                    f'arch: dims[{stage}]={dim} is not divisible by num_heads[{stage}]={heads}'
                )

    @property
    def stem_stride(self) -> int:
        """Stride of the first stage; each later one has twice that of the one before it."""
        return 4

    @property
    def strides(self) -> Tuple[int, ...]:
        """Stride of each stage."""
        return tuple(self.stem_stride * 2**stage for stage in range(len(self.dims)))

    @property
    def halves_first_dim(self) -> bool:
        """Whether the stem begins with half as many channels as it ends with."""
        return True

    def check_per_stage(self, name: str, accepts, description: str) -> None:
        """Raise ValueError unless field `name` holds one accepted entry for each stage."""
        value = getattr(self, name)
        if not isinstance(value, tuple) or len(value) != len(self.dims):
            raise ValueError(
                f'arch: {name} must hold one entry for each of the {len(self.dims)} stages of '
                f'dims={self.dims}, got {value!r}'
            )
        if not all(accepts(entry) for entry in value):
            raise ValueError(f'arch: {name} must hold {description}, got {value!r}')


ArchType = TypeVar('ArchType', bound=Arch)


def resolve_arch(
    arch: Union[str, Mapping[str, Any]], archs: Mapping[str, ArchType], cls: Type[ArchType]
) -> ArchType:
    """The architecture of a name in `archs`, or of a dict of the fields of `cls`.

    A dict may name an architecture as its `base`, and then holds what differs from it:
    ``dict(base='s', drop_path_rate=0.3)``.

    Raises:
        ValueError: for an unknown name, an unknown or missing field, or a value that does not
            fit; the message names it and the choices.
        TypeError: for anything but a name or a dict.
    """
    if isinstance(arch, str):
        return _named(arch, archs)
    if not isinstance(arch, Mapping):
        raise TypeError(f'arch: expected a name or a dict of fields, got {arch!r}')
    known = [field.name for field in fields(cls)]
    unknown = [name for name in arch if name not in (*known, 'base')]
    if unknown:
        raise ValueError(
            f'arch: unknown field {unknown[0]!r} with value {arch[unknown[0]]!r}; the fields are '
            f'{", ".join(known)}, and base names the arch that has those left out'
        )
    if 'base' in arch:
        others = {name: value for name, value in arch.items() if name != 'base'}
        return replace(_named(arch['base'], archs), **others)
    required = (field.name for field in fields(cls) if field.default is MISSING)
    missing = [name for name in required if name not in arch]
    if missing:
        raise ValueError(f'arch: missing {", ".join(missing)} in {dict(arch)!r}')
    return cls(**arch)


def _named(name: Any, archs: Mapping[str, ArchType]) -> ArchType:
    if not isinstance(name, str) or name not in archs:
        raise ValueError(
            f'arch: unknown name {name!r}; choose one of {", ".join(map(repr, archs))}, '
            'or give a dict of fields'
        )
    return archs[name]


def check_rate(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a probability below 1."""
    if not is_number(value) or not 0 <= value < 1:
        raise ValueError(f'{name} must be a number in [0, 1), got {value!r}')


def is_number(value: Any) -> bool:
    """Whether `value` is a finite real number; True and False are not."""
    return math.isfinite(value) if isinstance(value, float) else is_integer(value)


def is_positive_int(value: Any) -> bool:
    """Whether `value` is an integer from 1 up."""
    return is_integer(value) and value > 0


def is_integer(value: Any) -> bool:
    """Whether `value` is an integer; True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool)
