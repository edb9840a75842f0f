"""Architectures: fields that distinguish the networks of a family, and their checks."""

import math
from dataclasses import MISSING, dataclass, fields, replace
from numbers import Integral, Real
from typing import Any, Mapping, NewType, Optional, Tuple, TypeVar, Union, get_args

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
        stages = len(self.dims) if isinstance(self.dims, (list, tuple)) else 0
        self.require(1 <= stages <= 4, f'dims must list 1 to 4 stages, got {self.dims!r}')
        for field in fields(self):
            name, value, kinds = field.name, getattr(self, field.name), get_args(field.type)
            if Ellipsis not in kinds:
                check(f'arch: {name}', value, field.type)
                continue
            listed = isinstance(value, (list, tuple)) and len(value) == stages
            wanted = f'one entry per stage, {stages} for dims={self.dims}'
            self.require(listed, f'{name} must have {wanted}, got {value!r}')
            for stage, entry in enumerate(value):
                check(f'arch: {name}[{stage}]', entry, kinds[0])
            object.__setattr__(self, name, tuple(value))  # a config from JSON or YAML has lists
        for stage, (dim, heads) in enumerate(zip(self.dims, self.num_heads)):
            shape = f'dims[{stage}]={dim} is not divisible by num_heads[{stage}]={heads}'
            self.require(dim % heads == 0, shape)

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


ArchType = TypeVar('ArchType', bound=Arch)


def resolve_arch(arch: Union[str, Mapping[str, Any]], archs: Mapping[str, ArchType]) -> ArchType:
    """Return the architecture for a name in `archs`, or for a dict of architecture fields.

    A dict with a `base` needs only the fields that differ from that arch:
    ``dict(base='s', drop_path_rate=0.3)``.

    Raises:
        ValueError: an unknown name, an unknown or missing field, or an invalid value.
        TypeError: `arch` is not a name or a dict.
    """
    if not isinstance(arch, (str, Mapping)):
        raise TypeError(f'arch: expected a name or a dict of fields, got {arch!r}')
    values = dict(base=arch) if isinstance(arch, str) else dict(arch)
    cls = type(next(iter(archs.values())))
    required = {field.name: field.default is MISSING for field in fields(cls)}
    for name, value in values.items():
        if name not in required and name != 'base':
            raise ValueError(
                f'arch: unknown field {name!r} with value {value!r}; the fields are '
                f'{", ".join(required)}, and base, a named arch that supplies omitted fields'
            )
    if 'base' in values:
        base = values.pop('base')
        if not isinstance(base, str) or base not in archs:
            raise ValueError(
                f'arch: unknown name {base!r}; choose one of {", ".join(map(repr, archs))}, '
                'or pass a dict of fields'
            )
        return replace(archs[base], **values)
    missing = [name for name in required if required[name] and name not in values]
    if missing:
        raise ValueError(f'arch: missing {", ".join(missing)} in {values!r}')
    return cls(**values)


def is_number(value: Any, kind: type = Real) -> bool:
    """Return True for a finite number of a kind, including NumPy's, but not for a bool."""
    return isinstance(value, kind) and not isinstance(value, bool) and abs(value) < math.inf


_CHECKS = {
    int: (lambda value: is_number(value, Integral) and value > 0, 'a positive integer'),
    float: (lambda value: is_number(value) and value > 0, 'a positive number'),
    bool: (lambda value: isinstance(value, bool), 'True or False'),
    Optional[float]: (lambda value: value is None or is_number(value), 'a number or None'),
    Rate: (lambda value: is_number(value) and 0 <= value < 1, 'a number in [0, 1)'),
}


def check(name: str, value: Any, kind: Any) -> None:
    """Raise ValueError unless `value` is of a kind: int, float, bool, Optional[float], Rate.

    Integers and floats must be positive.
    """
    accepts, wanted = _CHECKS[kind]
    if not accepts(value):
        raise ValueError(f'{name} must be {wanted}, got {value!r}')
