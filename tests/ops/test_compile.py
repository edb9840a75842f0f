"""The Triton kernels compile for GPUs, which the interpreter does not show."""

import os
import subprocess
import sys

import pytest

pytest.importorskip('triton', '3.3')

SHARED_BYTES = 99 * 1024
"""What a GPU of capability 8.6 or 8.9 gives a block, the least of all from 8.0 on."""


def test_compile():
    environment = {k: v for k, v in os.environ.items() if k != 'TRITON_INTERPRET'}
    run = subprocess.run(
        [sys.executable, '-m', 'tests.ops.compile_all'],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert len(lines) == 12
    assert all(int(line.split()[-1]) <= SHARED_BYTES for line in lines), run.stdout
