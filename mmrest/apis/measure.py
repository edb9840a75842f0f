"""Time and memory of networks, ours and others, measured side by side."""

import gc
import multiprocessing
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from ..engine.display import peak_memory_mb
from ..ops import use_backend
from .networks import OURS, PEERS


class Job(NamedTuple):
    """What to measure.

    Attributes:
        network: key of OURS or PEERS.
        backend: of the attention, see :mod:`mmrest.ops.dispatch`; None for peers.
        size: height and width of the images, pixels.
        batch: images.
        train: forward and backward, rather than forward without gradients.
        with_cp: whether blocks are recomputed in the backward pass.
        dtype: 'float32', or a half type for autocast.
        device: 'cpu' or 'cuda'.
        compiled: whether torch.compile is used.
    """

    network: str
    backend: Optional[str]
    size: Tuple[int, int]
    batch: int = 1
    train: bool = False
    with_cp: bool = False
    dtype: str = 'float32'
    device: str = 'cpu'
    compiled: bool = False

    @property
    def name(self) -> str:
        """Network and what distinguishes it from another measurement of the same network."""
        parts = [self.network, self.backend or '']
        return ' '.join(
            filter(None, [*parts, 'with_cp' * self.with_cp, 'compiled' * self.compiled])
        )


class Memory(NamedTuple):
    """Memory of a job, in MB.

    Attributes:
        peak: the most that a process of its own held, or that was allocated on the device.
        kept: what autograd keeps for the backward pass, parameters left out; 0 in inference.
    """

    peak: float
    kept: float


def build(job: Job) -> nn.Module:
    """Network of a job, with random weights, on its device.

    Raises:
        KeyError: there is no network of this name.
    """
    cfg = {**OURS, **PEERS}[job.network]
    if job.network in PEERS:
        init_default_scope('mmdet')
    torch.manual_seed(0)
    network = MODELS.build(dict(cfg, with_cp=True) if job.with_cp else cfg)
    network.to(job.device).train(job.train)  # which returns nothing for some of mmdet's
    return torch.compile(network) if job.compiled else network


def step(job: Job, network: nn.Module) -> Callable[[], None]:
    """One forward, or one forward and backward, of a network on random images."""
    images = torch.randn(job.batch, 3, *job.size, device=job.device)

    def run() -> None:
        with _settings(job), torch.set_grad_enabled(job.train):
            loss = _loss(network(images))
        if job.train:
            loss.backward()
            network.zero_grad()
        if job.device == 'cuda':
            torch.cuda.synchronize()

    return run


def seconds(jobs: Sequence[Job], repeats: int) -> Dict[str, List[float]]:
    """Times of every job, measured in turn so that a slow moment meets all alike.

    Each has a process of its own, as a network that is used has: what one job has taken of the
    system's memory would serve the next one at once.

    Args:
        jobs: with different names.
        repeats: how often each is measured, after one run to warm up.

    Returns:
        Name of a job -> its times.
    """
    times: Dict[str, List[float]] = {job.name: [] for job in jobs}
    with ExitStack() as stack:
        processes = [stack.enter_context(_process_of(job)) for job in jobs]
        for repeat in range(repeats + 1):
            for job, process in zip(jobs, processes):
                taken = process.submit(_timed_step).result()
                if repeat > 0:
                    times[job.name].append(taken)
    return times


def _process_of(job: Job) -> ProcessPoolExecutor:
    process = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('spawn'))
    process.submit(_prepare, job, torch.get_num_threads()).result()
    return process


_prepared: Dict[str, Callable[[], None]] = {}
"""In a process of a job: its step."""


def _prepare(job: Job, threads: int) -> None:
    torch.set_num_threads(threads)
    _prepared['step'] = step(job, build(job))


def _timed_step() -> float:
    start = time.perf_counter()
    _prepared['step']()
    return time.perf_counter() - start


def memory(job: Job) -> Memory:
    """Memory of a job, measured in a process of its own, because a peak cannot be reset."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('spawn')) as process:
        return process.submit(_memory, job, torch.get_num_threads()).result()


def _memory(job: Job, threads: int) -> Memory:
    torch.set_num_threads(threads)
    network = build(job)
    kept = kept_by(job, network) if job.train else 0
    gc.collect()
    step(job, network)()
    return Memory(_peak_mb(job.device), kept / 2**20)


def _peak_mb(device: str) -> float:
    status = Path('/proc/self/status')
    if device == 'cpu' and status.is_file():
        # Unlike getrusage's, this one does not begin with what the parent process held.
        for line in status.read_text().splitlines():
            if line.startswith('VmHWM:'):
                return int(line.split()[1]) / 2**10
    return peak_memory_mb() or float('nan')


def kept_by(job: Job, network: nn.Module) -> int:
    """Bytes that autograd keeps for the backward pass of a job.

    Parameters, buffers and the images are left out.
    """
    images = torch.randn(job.batch, 3, *job.size, device=job.device)
    with _settings(job):
        return kept_bytes(
            lambda: _loss(network(images)), [images, *network.parameters(), *network.buffers()]
        )


def kept_bytes(run: Callable[[], Tensor], known: Iterable[Tensor] = ()) -> int:
    """Bytes of all distinct storages that autograd keeps for the backward pass of ``run()``.

    Args:
        run: what autograd records.
        known: tensors whose storages are left out.
    """
    left_out = {tensor.untyped_storage().data_ptr() for tensor in known}
    kept: Dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in left_out:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()  # keeps the graph, and with it every storage, alive
    assert result.requires_grad
    return sum(kept.values())


def matrix_rates(device: str, dtype: str, size: int = 2048, repeats: int = 7) -> Dict[str, float]:
    """Multiply-adds a second of a large product of matrices; the most is what can be reached.

    Returns:
        The rate of torch's product of matrices and, on a CPU, of its 1x1 convolution, for which
        torch has another library where it computes float32 in several threads.
    """
    a = torch.randn(size, size, device=device, dtype=getattr(torch, dtype))
    as_map, kernel = a.view(1, 1, size, size).permute(0, 3, 1, 2), a[:, :, None, None]
    products = {'product': partial(torch.mm, a, a)}
    if device == 'cpu':
        products['1x1 convolution'] = partial(torch.conv2d, as_map, kernel)
    return {name: size**3 / _fastest(run, device, repeats) for name, run in products.items()}


def _fastest(run: Callable[[], Tensor], device: str, repeats: int) -> float:
    """Seconds of the fastest of some runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        if device == 'cuda':
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def machine(device: str) -> str:
    """What the figures were measured on."""
    if device == 'cuda':
        return f'{torch.cuda.get_device_name()}, torch {torch.__version__}'
    return (
        f'{platform.machine()} CPU ({torch.backends.cpu.get_cpu_capability()}), '
        f'{torch.get_num_threads()} threads, torch {torch.__version__}'
    )


@contextmanager
def _settings(job: Job) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(use_backend(job.backend))
        if job.dtype != 'float32':
            dtype = getattr(torch, job.dtype)
            stack.enter_context(torch.autocast(job.device, dtype=dtype))
        yield


def _loss(maps: Sequence[Tensor]) -> Tensor:
    return sum(each.float().mean() for each in maps)
