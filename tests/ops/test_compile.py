"""The Triton kernels compile for GPUs, which the interpreter does not show.

As a script, outside of the interpreter, this compiles them for one type and prints a line per
kernel: name, type, capability and bytes of shared memory. It needs no GPU.
"""

import importlib
import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip('triton', '3.3')

SHARED_BYTES = 99 * 1024
"""Shared memory of a block on GPUs of capability 8.6 and 8.9, the least of all from 8.0 on."""

IN_FLOAT32 = (
    'cos_sin log_gamma m_of l_of delta mix sums squares of_pairs factor norm_term mean'.split()
)
INTEGERS = 'heads queries keys tokens width dim channels'.split()
# Package, number of strides, channels, names of its tiles.
CASES = [('masa', 5, 32, ['TILE']), ('emsa', 3, 96, ['ROWS', 'COLUMNS'])]
CAPABILITIES = {'bfloat16': 90, 'float32': 80}


@pytest.mark.parametrize('dtype', ['bfloat16', pytest.param('float32', marks=pytest.mark.slow)])
def test_compile(dtype):
    environment = {k: v for k, v in os.environ.items() if k != 'TRITON_INTERPRET'}
    command = [sys.executable, '-m', 'tests.ops.test_compile', dtype]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert len(lines) == 6
    assert all(int(line.split()[-1]) <= SHARED_BYTES for line in lines), run.stdout


def compiled(kernel, strides, constants, dtype):
    """The kernel for tensors of a type, with so many strides each."""
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    def type_of(name):
        if name in constants:
            return 'constexpr'
        if name.isupper():
            return ('i32',) * strides
        if name in IN_FLOAT32:
            return '*fp32'
        scalars = dict.fromkeys(INTEGERS, 'i32')
        return dict(scalars, scale='fp32').get(name, '*bf16' if dtype == 'bfloat16' else '*fp32')

    source = ASTSource(kernel, {name: type_of(name) for name in kernel.arg_names}, constants)
    return compile(source, target=GPUTarget('cuda', CAPABILITIES[dtype], 32))


def main(dtype):
    import triton.language as tl

    from mmrest.ops.tiles import padded, tile

    for package, strides, dim, tiles in CASES:
        kernels = importlib.import_module(f'mmrest.ops.{package}.triton')
        for name in ('_forward', '_backward_queries', '_backward_keys'):
            x = torch.empty(dim, dtype=getattr(torch, dtype))
            constants = dict(DIM=padded(dim), CHANNELS=padded(dim), WIDE=tl.float32)
            constants.update(dict.fromkeys(tiles, tile(1050, x, x)))
            made = compiled(getattr(kernels, name), strides, constants, dtype)
            assert made.asm['cubin']
            print(package, name, dtype, CAPABILITIES[dtype], made.metadata.shared)


if __name__ == '__main__':
    main(sys.argv[1])
