"""Time and memory of networks and of the attention in them, measured side by side."""

import multiprocessing
import os
import platform
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from functools import lru_cache
from typing import Any, Callable, Dict, Iterable, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import timer

from ..engine.devices import peak_memory_mb, reset_peak_memory
from ..engine.signals import end_with
from ..errors import UsageError
from ..ops import PositionTables, emsa, masa, position_tables, use_backend
from ..ops.rotary import rotary_frequencies
from .networks import build_network, network_config


class Attention(NamedTuple):
    """The attention of one block in a stage of a network."""

    stride: int  # of its tokens, in pixels
    heads: int
    dim: int  # channels per head
    axial: bool = False  # MaSA decomposed along the axes
    reduction: Optional[int] = None  # stride of EMSA's reduction of keys and values; MaSA has none

    def map_elements(self, size: Tuple[int, int]) -> int:
        """Return the size of the attention maps that the reference implementation stores."""
        height, width = (side // self.stride for side in size)
        if self.axial:
            return self.heads * height * width * max(height, width)
        return self.heads * (height * width) ** 2 // (self.reduction or 1) ** 2


ATTENTIONS = {
    'emsa': Attention(8, 2, 64, reduction=4),  # stage 2 of ResT-Small
    'masa_axial': Attention(4, 4, 16, axial=True),  # stage 1 of RMT-S
    'masa_full': Attention(16, 8, 32),  # stage 3 of RMT-T
}


class Job(NamedTuple):
    """A measurement."""

    network: str  # key of BACKBONES or ATTENTIONS
    backend: Optional[str]  # of the attention; None for mmdet networks
    size: Tuple[int, int]  # height and width of the images, in pixels
    batch: int = 1
    train: bool = False  # forward and backward, rather than forward without gradients
    with_cp: bool = False  # recompute blocks in the backward pass
    dtype: str = 'float32'  # or a half precision dtype for autocast
    device: str = 'cpu'
    compiled: bool = False

    @property
    def name(self) -> str:
        """Network and what distinguishes it from other jobs of the same network."""
        options = ['with_cp'] * self.with_cp + ['compiled'] * self.compiled
        return ' '.join([self.network, *([self.backend] if self.backend else []), *options])


class AttentionOnly(nn.Module):
    """Attention on random queries, keys and values; the images are ignored."""

    def __init__(self, attention: Attention, job: Job) -> None:
        super().__init__()
        heads, dim, self.axial = attention.heads, attention.dim, attention.axial
        height, width = (side // attention.stride for side in job.size)
        if attention.reduction:
            keys = (height // attention.reduction) * (width // attention.reduction)
            shapes = [(job.batch, heads, n, dim) for n in (height * width, keys, keys)]
            shapes.append((heads, heads, 1, 1))
        else:
            shapes = [(job.batch, height, width, heads, dim)] * 3
            log_gamma = torch.linspace(-0.3, -0.01, heads)
            tables = position_tables(rotary_frequencies(dim), log_gamma, height, width)
            for field, table in tables._asdict().items():
                self.register_buffer(field, table)
        dtype = getattr(torch, job.dtype)
        self.inputs = nn.ParameterList(torch.randn(shape, dtype=dtype) for shape in shapes)

    def forward(self, images: Tensor) -> Tuple[Tensor]:
        buffers = dict(self.named_buffers())
        if not buffers:
            return (emsa(*self.inputs),)
        return (masa(*self.inputs, PositionTables(**buffers), self.axial),)


class Step:
    """A forward, or a forward and backward pass, of a job's network on random images.

    Raises:
        UsageError: unknown network name.
    """

    def __init__(self, job: Job) -> None:
        torch.manual_seed(0)
        if job.network in ATTENTIONS:
            network = AttentionOnly(ATTENTIONS[job.network], job)
        else:
            options = {'model.with_cp': True} if job.with_cp else None
            network = build_network(network_config(job.network, options))
        network.to(job.device).train(job.train)  # returns None for some mmdet backbones
        self.job = job
        self.network = torch.compile(network) if job.compiled else network
        self.images = torch.randn(job.batch, 3, *job.size, device=job.device)

    def __call__(self) -> None:
        loss = self.forward()
        if self.job.train:
            loss.backward()
            self.network.zero_grad()

    def forward(self) -> Tensor:
        """Return the sum of all outputs."""
        job = self.job
        half = None if job.dtype == 'float32' else getattr(torch, job.dtype)
        autocast = torch.autocast(job.device, half, enabled=half is not None)
        with use_backend(job.backend), torch.set_grad_enabled(job.train), autocast:
            return sum(each.float().sum() for each in self.network(self.images))

    def saved_bytes(self) -> int:
        known = [self.images, *self.network.parameters(), *self.network.buffers()]
        return saved_bytes(self.forward, known)


def saved_bytes(run: Callable[[], Tensor], known: Iterable[Tensor] = ()) -> int:
    """Return the bytes of all storages that autograd saves for the backward pass of ``run()``.

    Storages of `known` tensors are not counted.
    """
    excluded = {tensor.untyped_storage().data_ptr() for tensor in known}
    saved: Dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in excluded:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()  # keeps the graph alive, and with it every storage
    assert result.requires_grad
    return sum(saved.values())


def measured(
    jobs: Sequence[Job], repeats: int, with_memory: bool = False
) -> Dict[str, Dict[str, Any]]:
    """Time interleaved steps of jobs, after one to warm up, and measure their memory.

    Each job has its own process, so that it cannot reuse memory that another one has freed.

    Returns:
        Job name -> ``seconds`` of each step; on a GPU, ``gpu``, see :func:`gpu_seconds`; and the
        fields of :func:`memory` if asked for.

    Raises:
        UsageError: the system killed a process, which it does if memory runs out.
    """
    results: Dict[str, Dict[str, Any]] = {job.name: dict(seconds=[]) for job in jobs}
    with ExitStack() as stack:
        processes = {job: stack.enter_context(_process()) for job in jobs}
        for _ in range(repeats + 1):
            for job, process in processes.items():
                results[job.name]['seconds'].append(_run_in(process, _timed_step, job))
        for job, process in processes.items():
            del results[job.name]['seconds'][0]
            if job.device == 'cuda':
                results[job.name]['gpu'] = _run_in(process, gpu_seconds, job)
            if job.device == 'cuda' and with_memory:
                results[job.name].update(_run_in(process, memory, job))
    for job in jobs:
        if with_memory and job.device != 'cuda':  # a used process keeps freed memory
            with _process() as process:
                results[job.name].update(_run_in(process, memory, job))
    return results


def _process() -> ProcessPoolExecutor:
    spawn, threads = multiprocessing.get_context('spawn'), torch.get_num_threads()
    return ProcessPoolExecutor(1, spawn, _begin, (os.getpid(), threads))


def _begin(parent: int, threads: int) -> None:
    end_with(parent)
    torch.set_num_threads(threads)


def _run_in(process: ProcessPoolExecutor, measurement: Callable[[Job], Any], job: Job) -> Any:
    try:
        return process.submit(measurement, job).result()
    except BrokenProcessPool as error:
        raise UsageError(
            f'the process of {job.name} at {job.size[0]}x{job.size[1]} was killed, probably '
            'because memory ran out: set a smaller --sizes or --batch, or measure fewer networks '
            'and --backends in one run, because all are timed side by side'
        ) from error


_step_of = lru_cache(maxsize=1)(Step)


def _timed_step(job: Job) -> float:
    step = _step_of(job)
    start = timer()  # synchronises the GPU, if there is one
    step()
    return timer() - start


def gpu_seconds(job: Job) -> float:
    """Return the GPU time of all kernels of a step, in seconds, after :func:`_timed_step`."""
    step = _step_of(job)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        step()
        torch.cuda.synchronize()
    events = [event for event in profiler.events() if event.device_type == DeviceType.CUDA]
    return sum(event.time_range.elapsed_us() for event in events) / 1e6


def memory(job: Job) -> Dict[str, Optional[float]]:
    """Return the memory of a job in this process, in MB.

    Returns:
        ``peak``: the peak of the process, or of its allocations on the GPU; for an attention, the
        growth during the step; None if the system does not report it. ``saved``: by autograd for
        the backward pass, without parameters and inputs.
    """
    on_gpu, is_attention = job.device == 'cuda', job.network in ATTENTIONS
    if is_attention:
        Step(job._replace(size=(128, 128)))()  # torch initialises at first use
    step = _step_of(job)
    before = reset_peak_memory(on_gpu)
    step()
    peak = peak_memory_mb(on_gpu)
    if is_attention:
        peak = None if before is None else peak - before
    return dict(peak=peak, saved=step.saved_bytes() / 2**20 if job.train else 0)


def machine(device: str) -> str:
    """Describe the hardware, its threads and the torch version."""
    if device == 'cuda':
        return f'{torch.cuda.get_device_name()}, torch {torch.__version__}'
    return (
        f'{platform.machine()} CPU ({torch.backends.cpu.get_cpu_capability()}), '
        f'{torch.get_num_threads()} threads, torch {torch.__version__}'
    )
