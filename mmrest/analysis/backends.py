"""Exactness, time and memory of the attention backends on a device, at the networks' shapes."""

import contextlib
import copy
from itertools import product
from typing import Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.utils.benchmark import Timer

from ..engine.devices import peak_memory_mb, reset_peak_memory
from ..errors import first_line
from ..ops import BACKENDS, observed, use_backend
from ..ops.trust import failures
from .measure import ATTENTIONS, Attention, AttentionOnly, Job

CASES = {
    'EMSA, stage 2 of ResT-Small': ATTENTIONS['emsa'],
    'EMSA, stage 3 of ResT-Small': Attention(16, 4, 64, reduction=2),
    'EMSA, stage 4 of ResT-Small': Attention(32, 8, 64, reduction=1),
    'axial MaSA, stage 1 of RMT-S': ATTENTIONS['masa_axial'],
    'axial MaSA, stage 3 of RMT-S': Attention(16, 8, 32, axial=True),
    'full MaSA, stage 3 of RMT-T': ATTENTIONS['masa_full'],
    'full MaSA, stage 4 of RMT-S': Attention(32, 16, 32),
}

INPUTS = ((16, (224, 224)), (1, (800, 1344)))  # numbers of images, and their size
DTYPES = ('bfloat16', 'float16', 'float32')
SECONDS = 0.1  # minimum time per measurement
# Accepted error in machine epsilons of the dtype, relative to the largest value; three times the
# error of the reference implementation in that dtype is also accepted.
EPSILONS = 16


class Finding(NamedTuple):
    """One backend at one shape."""

    backend: str
    is_default: bool  # the networks use it here
    refusal: Optional[str] = None  # reason why it cannot run; the rest is then empty
    error: float = 0.0  # largest of result and gradients, relative to the largest value of each
    deviates: bool = False  # by more than rounding, or it failed, here or in its trial
    forward: float = 0.0  # milliseconds of an inference step
    training: float = 0.0  # milliseconds of a forward and backward pass
    peak: Optional[float] = None  # growth in a training step, in MB, if the system reports it


def examine(device: torch.device) -> Iterator[Tuple[Job, List[Finding]]]:
    """Compare all backends with the reference implementation in float64.

    Yields:
        For each shape and dtype, a job and a finding per backend, the reference first.
    """
    for (name, attention), (batch, size), dtype in product(CASES.items(), INPUTS, DTYPES):
        torch.manual_seed(0)
        job = Job(name, None, size, batch, train=True, dtype=dtype, device=device.type)
        yield job, _findings(AttentionOnly(attention, job).to(device))


def _findings(module: AttentionOnly) -> List[Finding]:
    with observed() as tried, contextlib.suppress(Exception):  # measured below, with its error
        module(None)
    default = next((backend for backend, reason in tried if reason is None), None)
    with use_backend('reference'):
        exact = _results(copy.deepcopy(module).double())
    accepted = EPSILONS * torch.finfo(module.inputs[0].dtype).eps
    findings = []
    for backend in reversed(BACKENDS):
        finding = _finding(Finding(backend, backend == default), module, exact)
        if backend == 'reference':
            accepted = max(accepted, 3 * finding.error)
        deviates = finding.deviates or not finding.error <= accepted  # or NaN
        findings.append(finding._replace(deviates=deviates))
    return findings


def _finding(blank: Finding, module: AttentionOnly, exact: Sequence[Tensor]) -> Finding:
    """Fill in what was measured, or why the backend cannot run."""
    try:
        with use_backend(blank.backend), observed() as tried:
            return _measured(blank, module, exact)
    except Exception as error:  # compilers and drivers raise anything
        reasons = [reason for _, reason in tried]
        has_run = None in reasons
        refusal = '' if has_run else '; '.join(reasons)
        failed = has_run or bool(failures().intersection(reasons))
        return blank._replace(refusal=refusal or first_line(error), deviates=failed)


def _measured(blank: Finding, module: AttentionOnly, exact: Sequence[Tensor]) -> Finding:
    on_gpu = module.inputs[0].is_cuda
    _results(module)  # compiles
    before = reset_peak_memory(on_gpu)
    results = _results(module)
    peak = peak_memory_mb(on_gpu)
    errors = [
        (a.double() - b).abs().max() / b.abs().max().clamp_min(1e-30)
        for a, b in zip(results, exact)
    ]
    with torch.no_grad():
        forward = _milliseconds('module(None)', module)
    return blank._replace(
        error=float(torch.stack(errors).max()),
        forward=forward,
        training=_milliseconds('module(None)[0].sum().backward()', module),
        peak=None if before is None else peak - before,
    )


def _results(module: AttentionOnly) -> List[Tensor]:
    """Return the result, and the gradients of the inputs."""
    (out,) = module(None)
    weight = torch.linspace(-1, 1, out.numel(), device=out.device).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, list(module.inputs), weight.view_as(out))]


def _milliseconds(statement: str, module: AttentionOnly) -> float:
    timer = Timer(statement, globals=dict(module=module), num_threads=torch.get_num_threads())
    return 1e3 * timer.blocked_autorange(min_run_time=SECONDS).median
