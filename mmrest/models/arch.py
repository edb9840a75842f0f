"""Architectures: fields that distinguish the networks of a family, and their checks."""

import math
from dataclasses import MISSING, dataclass, fields, replace
from numbers import Integral
from typing import Any, Mapping, NewType, Optional, Tuple, Type, TypeVar, Union, get_args

MAX_STAGES = 4

Rate = NewType('Rate', float)
"""A probability below 1."""


@dataclass(frozen=True)
class Arch:
    """Fields that both families share; tuples have one entry per stage.

    Attributes:
        dims: channels.
        depths: number of blocks.
        num_heads: attention heads.
        drop_path_rate: drop-path rate of the last block; the rates grow linearly from 0 at the
            first.
    """

    dims: Tuple[int, ...]
    depths: Tuple[int, ...]
    num_heads: Tuple[int, ...]
    drop_path_rate: Rate = Rate(0.0)

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):  # of a config that went through JSON or YAML
                object.__setattr__(self, field.name, tuple(value))
        stages = len(self.dims) if isinstance(self.dims, tuple) else 0
        self.require(
            1 <= stages <= MAX_STAGES,
            f'dims must list 1 to {MAX_STAGES} stages, got {self.dims!r}',
        )
        for field in fields(self):
            name, value, kinds = field.name, getattr(self, field.name), get_args(field.type)
            if Ellipsis not in kinds:
                check(f'arch: {name}', value, field.type)
                continue
            self.require(
                isinstance(value, tuple) and len(value) == stages,
                f'{name} must have one entry per stage, {stages} for dims={self.dims}, '
                f'got {value!r}',
            )
            for stage, entry in enumerate(value):
                check(f'arch: {name}[{stage}]', entry, kinds[0])
        self.require(
            not self.halves_first_dim or self.dims[0] % 2 == 0,
            f'dims[0] must be even, because the stem begins with half of it, got {self.dims[0]}',
        )
        for stage, (dim, heads) in enumerate(zip(self.dims, self.num_heads)):
            self.require(
                dim % heads == 0,
                f'dims[{stage}]={dim} is not divisible by num_heads[{stage}]={heads}',
            )

    def require(self, condition: bool, message: str) -> None:
        """Raise ValueError unless the fields meet a condition."""
        if not condition:
            raise ValueError(f'arch: {message}')

    @property
    def stem_stride(self) -> int:
        """Stride of the first stage; it doubles with each later one."""
        return 4

    @property
    def strides(self) -> Tuple[int, ...]:
        """Stride of each stage."""
        return tuple(self.stem_stride * 2**stage for stage in range(len(self.dims)))

    @property
    def halves_first_dim(self) -> bool:
        """Return True if the stem begins with half of its output channels."""
        return True


ArchType = TypeVar('ArchType', bound=Arch)


def resolve_arch(
    arch: Union[str, Mapping[str, Any]], archs: Mapping[str, ArchType], cls: Type[ArchType]
) -> ArchType:
    """Return the architecture for a name in `archs`, or for a dict of the fields of `cls`.

    A dict with a `base` has only the fields that differ from that arch:
    ``dict(base='s', drop_path_rate=0.3)``.

    Raises:
        ValueError: an unknown name, an unknown or missing field, or an invalid value.
        TypeError: `arch` is not a name or a dict.
    """
    if isinstance(arch, str):
        return _named(arch, archs)
    if not isinstance(arch, Mapping):
        raise TypeError(f'arch: expected a name or a dict of fields, got {arch!r}')
    known = {field.name: field.default is MISSING for field in fields(cls)}
    for name in arch:
        if name not in known and name != 'base':
            raise ValueError(
                f'arch: unknown field {name!r} with value {arch[name]!r}; the fields are '
                f'{", ".join(known)}, and base, a named arch for the fields that are left out'
            )
    if 'base' in arch:
        others = {name: value for name, value in arch.items() if name != 'base'}
        return replace(_named(arch['base'], archs), **others)
    missing = [name for name, is_required in known.items() if is_required and name not in arch]
    if missing:
        raise ValueError(f'arch: missing {", ".join(missing)} in {dict(arch)!r}')
    return cls(**arch)


def _named(name: Any, archs: Mapping[str, ArchType]) -> ArchType:
    if not isinstance(name, str) or name not in archs:
        raise ValueError(
            f'arch: unknown name {name!r}; choose one of {", ".join(map(repr, archs))}, '
            'or pass a dict of fields'
        )
    return archs[name]


def is_integer(value: Any) -> bool:
    """Return True for an integer, also of numpy, but not for a bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Return True for a finite real number, but not for a bool."""
    return math.isfinite(value) if isinstance(value, float) else is_integer(value)


_CHECKS = {
    int: (lambda value: is_integer(value) and value > 0, 'a positive integer'),
    float: (lambda value: is_number(value) and value > 0, 'a positive number'),
    bool: (lambda value: isinstance(value, bool), 'True or False'),
    Optional[float]: (lambda value: value is None or is_number(value), 'a number or None'),
    Rate: (lambda value: is_number(value) and 0 <= value < 1, 'a number in [0, 1)'),
}


def check(name: str, value: Any, kind: Any) -> None:
    """Raise ValueError unless `value` is of a kind: int, float, bool, Optional[float], Rate.

    An int and a float must be positive.
    """
    accepts, wanted = _CHECKS[kind]
    if not accepts(value):
        raise ValueError(f'{name} must be {wanted}, got {value!r}')
