"""Compile every kernel for GPUs, which takes none: run as a program, outside of the interpreter.

Prints a line a kernel: name, type, channels, capability and bytes of shared memory.
"""

import importlib

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mmrest.ops.tiles import padded, tile

TYPES = {torch.bfloat16: 'bf16', torch.float32: 'fp32'}
IN_FLOAT32 = (
    'cos_sin log_gamma m_of l_of delta mix sums squares of_pairs factor norm_term mean'.split()
)
CASES = [
    ('masa', 5, dict(DIM=32, CHANNELS=32), 'TILE'),
    ('emsa', 3, dict(DIM=padded(96), CHANNELS=padded(96)), 'ROWS COLUMNS'),
]


def compiled(kernel, strides, constants, dtype, capability):
    """The kernel for tensors of a type, with so many strides each."""

    def type_of(name):
        if name in constants:
            return 'constexpr'
        if name.isupper():
            return ('i32',) * strides
        if name in IN_FLOAT32:
            return '*fp32'
        scalars = dict(scale='fp32')
        whole = 'heads queries keys tokens width dim channels'.split()
        return scalars.get(name, 'i32' if name in whole else f'*{TYPES[dtype]}')

    source = ASTSource(kernel, {name: type_of(name) for name in kernel.arg_names}, constants)
    return triton.compile(source, target=GPUTarget('cuda', capability, 32))


def main():
    """Compile them all."""
    for module, strides, channels, tokens in CASES:
        kernels = importlib.import_module(f'mmrest.ops.{module}.triton')
        for name in ('_forward', '_backward_queries', '_backward_keys'):
            for dtype, capability in ((torch.bfloat16, 90), (torch.float32, 80)):
                size = tile(1050, max(channels.values()), dtype)
                constants = dict(channels, **dict.fromkeys(tokens.split(), size), WIDE=tl.float32)
                made = compiled(getattr(kernels, name), strides, constants, dtype, capability)
                assert made.asm['cubin']
                print(module, name, dtype, capability, made.metadata.shared)


if __name__ == '__main__':
    main()
