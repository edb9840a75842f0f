"""The Triton kernels compile for GPUs, which the interpreter does not show.

As a script, outside of the interpreter, this compiles them for one type and one capability, and
prints a line per kernel: name, bytes of shared memory, bytes of spills. It needs no GPU.
"""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip('triton', '3.3')

SHARED_BYTES = 99 * 1024
"""Shared memory of a block on GPUs of capability 8.6, 8.9 and 12.0, the least from 8.0 on."""

SPILLED_BYTES = 512 if triton.__version__.startswith('3.8.') else 640
"""Bytes of registers that a thread may spill: more with 3.4 (624) and 3.9 (544)."""

IN_FLOAT32 = 'cos_sin log_gamma m_of r_of l_of delta mix sums squares'.split()
IN_FLOAT32 += 'pair_grads factor norm_term mean'.split()
INTEGERS = 'heads queries keys tokens width dim channels sign'.split()
EACH = ('_forward', '_backward_queries', '_backward_keys')
# Package, kernels, number of strides, channels, other constants.
CASES = [
    ('masa', ('_rotate',), 3, 32, dict(TILE=64)),
    ('masa', EACH, 4, 32, dict(AXIAL=False, ADD=False)),
    ('masa', EACH, 4, 32, dict(AXIAL=True, ADD=True)),
    ('emsa', EACH, 3, 64, {}),
    ('emsa', EACH, 3, 96, {}),
]
CAPABILITIES = [80, 86, 89, 90, 100, 120]


@pytest.mark.parametrize('dtype, capability, cases', [
    ('bfloat16', 90, [1, 3]),
    *(
        pytest.param(dtype, capability, range(len(CASES)), marks=pytest.mark.slow)
        for dtype in ('bfloat16', 'float16')
        for capability in CAPABILITIES
    ),
])  # fmt: skip
def test_compile(dtype, capability, cases):
    environment = {k: v for k, v in os.environ.items() if k != 'TRITON_INTERPRET'}
    command = [sys.executable, '-m', 'tests.ops.test_compile', dtype, capability, *cases]
    run = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert len(lines) == sum(len(CASES[case][1]) for case in cases)
    for line in lines:
        _, _, shared, spilled = line.split()
        assert int(shared) <= SHARED_BYTES and int(spilled) <= SPILLED_BYTES, run.stdout


def compiled(kernel, strides, constants, dtype, capability, **options):
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
        half = '*bf16' if dtype == 'bfloat16' else '*fp16'
        return dict(scalars, scale='fp32').get(name, half)

    source = ASTSource(kernel, {name: type_of(name) for name in kernel.arg_names}, constants)
    return compile(source, target=GPUTarget('cuda', capability, 32), options=options)


def spilled(made):
    """Bytes that a thread spills, as the assembler counts them."""
    import triton.backends.nvidia

    folder = Path(triton.backends.nvidia.__file__).parent / 'bin'
    arch = re.search(r'\.target (sm_\w+)', made.asm['ptx'])[1]
    newest_first = made.metadata.target.arch >= 100  # ptxas-blackwell; Triton chooses as well
    for assembler in sorted(folder.glob('ptxas*'), reverse=newest_first):
        run = subprocess.run(
            [assembler, '-v', f'--gpu-name={arch}', '-o', os.devnull, '-'],
            input=made.asm['ptx'], capture_output=True, text=True,
        )  # fmt: skip
        if run.returncode == 0:
            return int(re.search(r'(\d+) bytes spill stores', run.stderr)[1])
    raise RuntimeError(f'no assembler in {folder} reads the PTX for {arch}')


def main(dtype, capability, cases):
    import triton.language as tl

    from mmrest.ops.tiles import COMPILED, padded, tile

    for package, names, strides, dim, others in [CASES[case] for case in cases]:
        kernels = importlib.import_module(f'mmrest.ops.{package}.triton')
        x = torch.empty(dim, dtype=getattr(torch, dtype))
        size, options = tile(1050, x, x), dict(COMPILED)
        constants = dict(DIM=padded(dim), CHANNELS=padded(dim), WIDE=tl.float32)
        constants.update(dict.fromkeys(('TILE', 'ROWS', 'COLUMNS'), size), **others)
        if others.get('AXIAL'):
            constants['TILE'] = min(size, kernels.AXIAL_TILE)
            options['num_warps'] = kernels.AXIAL_WARPS
        for name in names:
            kernel = getattr(kernels, name)
            if package == 'emsa':
                options['num_warps'] = kernels.warps(capability // 10, name != '_forward')
            given = {k: v for k, v in constants.items() if k in kernel.arg_names}
            made = compiled(kernel, strides, given, dtype, capability, **options)
            assert made.asm['cubin']
            print(package, name, made.metadata.shared, spilled(made))


if __name__ == '__main__':
    main(sys.argv[1], int(sys.argv[2]), list(map(int, sys.argv[3:])))
