"""Check the environment: installed and supported versions, and what to fix.

Exit status 1 if something is broken. --markdown prints the findings for a bug report.
"""

import glob
import importlib
import io
import os
import platform
import re
import subprocess
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout, suppress
from importlib import metadata
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

import torch
from mmengine.utils import digit_version
from rich.console import Console
from rich.table import Column, Table

from .. import __version__
from ..engine.config import INSTALLED_BY
from ..errors import UsageError
from ..operators import ENVIRONMENT_VARIABLE, describe
from ..ops import dispatch
from ..ops.gpu import MIN_TRITON, refuse_triton
from .command import Parser, markdown_table

# Module, distributions that contain it, including maintained forks, and what needs it.
PACKAGES = (
    ('torch', ('torch',), 'mmrest'),
    ('mmengine', ('mmengine', 'onedl-mmengine'), 'mmrest'),
    ('pkg_resources', ('setuptools',), 'mmengine'),
    ('mmcv', ('mmcv', 'mmcv-full', 'onedl-mmcv', 'mmcv-lite'), 'mmrest'),
    ('mmrest', ('mmrest',), 'mmrest'),
    ('mmdet', ('mmdet', 'onedl-mmdetection'), 'detection'),
    ('mmseg', ('mmsegmentation', 'onedl-mmsegmentation'), 'segmentation'),
    ('ftfy', ('ftfy',), 'mmseg'),
    ('regex', ('regex',), 'mmseg'),
    ('numpy', ('numpy',), 'mmrest'),
    ('cv2', ('opencv-python', 'opencv-python-headless'), 'mmrest'),
    ('pycocotools', ('pycocotools',), 'mmdet'),
    ('mmpretrain', ('mmpretrain', 'onedl-mmpretrain'), 'classification'),
    ('torchvision', ('torchvision',), 'mmpretrain'),
    ('triton', ('triton',), 'kernels on NVIDIA GPUs'),
)

SUPPORTED = {'Python': ((3, 8), (3, 13)), 'torch': ((2, 1), (2, 15))}
"""Oldest and newest tested release."""

COLUMNS = ('package', 'found', 'supported', 'status')


class State(NamedTuple):
    """The environment."""

    versions: Dict[str, Tuple[str, str]]  # module -> distribution and version, if installed
    faults: Dict[str, str]  # module -> first line of its import error
    both_mmcv: bool = False  # mmcv and mmcv-lite are installed
    gpu: bool = False  # the driver lists one
    torch_cuda: Optional[str] = None  # CUDA version of torch
    cuda_works: bool = False  # torch finds a GPU
    operators: str = ''  # MMCV's ops, if they can be imported
    without_cuda: bool = False  # those are compiled, without CUDA


def look() -> State:
    """Find packages and a GPU, and try to import the packages."""
    installed, versions, faults = set(), {}, {}
    for module, distributions, _ in PACKAGES:
        for name in reversed(distributions):  # the first that is installed counts
            with suppress(metadata.PackageNotFoundError):
                versions[module] = name, metadata.version(name)
                installed.add(name)
    versions.setdefault('mmrest', ('mmrest', __version__))  # of a clone that is not installed
    silent = io.StringIO()
    with warnings.catch_warnings(), redirect_stderr(silent), redirect_stdout(silent):
        warnings.simplefilter('ignore')
        for module in (*versions, 'mmcv._ext'):
            try:
                importlib.import_module(module)
            except Exception as error:  # whatever a broken package raises
                faults[module] = str(error).strip().split('\n')[0] or type(error).__name__
    both, gpu = {'mmcv', 'mmcv-lite'} <= installed, bool(glob.glob('/dev/nvidia[0-9]*'))
    state = State(versions, faults, both, gpu, torch.version.cuda, torch.cuda.is_available())
    if 'mmcv._ext' in faults:
        return state
    from mmcv.ops import get_compiling_cuda_version

    without_cuda = describe() == 'compiled' and get_compiling_cuda_version() == 'not available'
    return state._replace(operators=describe(), without_cuda=without_cuda)


def supported_versions() -> Dict[str, str]:
    """Return distribution -> version specifier in mmrest's requirements."""
    requirements = []
    with suppress(metadata.PackageNotFoundError):
        requirements += metadata.requires('mmrest') or []
    return dict(re.findall(r'^([\w-]+) *\(?([=<>][^;)]*[^; )])', '\n'.join(requirements), re.M))


def supported_range(name: str) -> str:
    """Return the range of :data:`SUPPORTED`, such as '2.1 to 2.15'."""
    return ' to '.join('.'.join(map(str, release)) for release in SUPPORTED[name])


def outside(name: str, version: str) -> Optional[str]:
    """Return the fix for a release outside :data:`SUPPORTED`, or None."""
    oldest, newest = SUPPORTED[name]
    release = tuple(map(int, re.findall(r'\d+', version)[:2]))  # of any build
    if release < oldest:
        return f'too old, mmrest supports {supported_range(name)}: install a newer one'
    if release > newest:
        return f'newer than the tested {supported_range(name)}: run the tests of mmrest'
    return None


def remedies(state: State) -> Dict[str, str]:
    """Return module -> fix, for everything that is broken."""
    fixes: Dict[str, str] = {}
    versions = state.versions
    for module, distributions, needed_by in PACKAGES:
        if module in state.faults:
            remedy = INSTALLED_BY[module] if module == 'pkg_resources' else 'reinstall it'
            fixes[module] = f'cannot be imported ({state.faults[module]}): {remedy}'
        elif module not in versions and needed_by in {'mmrest', *versions}:
            remedy = INSTALLED_BY.get(module, f'pip install {distributions[0]}')
            fixes[module] = f'{needed_by} needs it: {remedy}'
    fixes.update(_mmcv_remedies(state))
    if state.gpu and not state.cuda_works:
        cuda = state.torch_cuda
        fault = f'CUDA {cuda} does not work: see nvidia-smi, the driver may be too old'
        if not cuda:
            fault = 'this build has no CUDA: install a CUDA build'
        fixes['torch'] = f'GPU found, but {fault}'
    torch_version = versions.get('torch', ('', ''))[1]
    if torch_version and digit_version(torch_version)[:2] < SUPPORTED['torch'][0]:
        fixes['torch'] = str(outside('torch', torch_version))
    numpy_version = versions.get('numpy', ('', '0'))[1]
    if torch_version.startswith(('2.1.', '2.2.')) and digit_version(numpy_version)[0] >= 2:
        remedy = 'pip install "numpy<2" "opencv-python<4.12"'
        fixes['numpy'] = f'PyTorch before 2.3 cannot use numpy 2: {remedy}'
    return fixes


def _mmcv_remedies(state: State) -> Dict[str, str]:
    """Return fixes for MMCV ops and for unsupported versions of mmcv."""
    versions, faults = state.versions, state.faults
    mmcv, mmcv_version = versions.get('mmcv', ('', ''))
    mmdet, mmdet_version = versions.get('mmdet', ('', ''))
    swap = (
        f'pip uninstall -y mmcv, then pip install mmcv-lite=={mmcv_version}, which uses the '
        'ops of torchvision; or install the mmcv wheel that was built for your torch'
    )
    if state.both_mmcv:
        return {'mmcv': 'mmcv and mmcv-lite overwrite each other: uninstall both, install one'}
    if mmcv == 'mmcv' and mmdet == 'mmdet' and digit_version(mmcv_version) >= (2, 2):
        return {'mmcv': f'mmdet {mmdet_version} requires mmcv<2.2: pip install "mmcv<2.2"'}
    if {'mmdet', 'mmseg'} & versions.keys() and 'mmcv._ext' in faults and mmcv:
        if mmcv != 'mmcv-lite':
            return {'mmcv': f'compiled ops fail to import ({faults["mmcv._ext"]}): {swap}'}
        if os.environ.get(ENVIRONMENT_VARIABLE) == 'off':
            return {'mmcv': f'{ENVIRONMENT_VARIABLE}=off disables its ops: unset it'}
        needed = 'mmcv-lite has no ops without it: install the release for your torch'
        return {'torchvision': needed}
    if state.cuda_works and state.without_cuda:
        return {'mmcv': f'its ops were compiled without CUDA: {swap}'}
    return {}


def commit() -> str:
    """Return the commit of the clone that mmrest is imported from, '-dirty' after changes."""
    root = Path(__file__).resolve().parents[2]
    command = ['git', '-C', str(root), 'describe', '--always', '--dirty', '--abbrev=12']
    if (root / '.git').exists():
        with suppress(OSError):  # no git
            return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return ''


def surroundings(state: State) -> Dict[str, str]:
    """Return other properties of the environment, by name."""
    python = platform.python_version()
    threads = os.environ.get('OMP_NUM_THREADS', 'not set')
    facts = {
        'Python': f'{python} ({outside("Python", python) or "supported"})',
        'system': platform.platform(),
        'processor': f'{os.cpu_count()} cores, OMP_NUM_THREADS {threads}',
        'mmrest commit': commit() or 'n/a (installed package)',
        'PyTorch CUDA version': state.torch_cuda or 'none',
        'GPU': 'detected' if state.gpu else 'none',
        'attention': _attention(),
    }
    if state.cuda_works:
        gpus = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        facts['GPU'] = '; '.join(
            f'{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, capability {gpu.major}.{gpu.minor}'
            for gpu in gpus
        )
    if state.operators:
        facts['MMCV ops'] = state.operators
    return facts


def _attention() -> str:
    """Return the selected attention backend, and why it is not Triton."""
    try:
        forced = dispatch.forced_backend()
    except ValueError as error:
        return str(error)
    if forced is not None:
        return f'{forced}, forced by {dispatch.ENVIRONMENT_VARIABLE}'
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    x = torch.empty(1, 1, 1, 8, dtype=torch.float16, device=device)
    reason = refuse_triton(x, x, x)
    return 'triton, torch in float32' if reason is None else f'torch (not triton: {reason})'


def rows(state: State) -> List[Tuple[str, str, str, str]]:
    """Return the :data:`COLUMNS` of each package."""
    supported = dict(supported_versions(), triton='>=' + '.'.join(map(str, MIN_TRITON)))
    broken = remedies(state)
    table = []
    for module, distributions, needed_by in PACKAGES:
        name, version = state.versions.get(module, (distributions[0], '-'))
        status = broken.get(module)
        wanted = supported.get(name) or supported.get(distributions[0], 'any')
        if module in SUPPORTED:
            status = status or outside(module, version)
            wanted = supported_range(module)
        if version == '-':
            status = status or f'only for {needed_by}'
        table.append((name, version, wanted, status or 'ok'))
    return table


def check_backends(device: str) -> int:
    """Print errors, times and memory of all attention backends; return 1 if one deviates."""
    from ..analysis.backends import examine
    from ..analysis.measure import machine

    try:
        dispatch.forced_backend()
    except ValueError as error:
        raise UsageError(str(error)) from error
    print(f'\n{machine(device)}; ms and MB, * = default, errors relative to the largest value\n')
    columns = 'attention', 'input', 'backend', 'error', 'inference', 'training', 'memory', 'note'
    print(markdown_table(columns, ()), flush=True)
    status = 0
    for job, findings in examine(torch.device(device)):
        shape = f'{job.batch} x {job.size[0]} x {job.size[1]} {job.dtype}'
        for finding in findings:
            status |= finding.deviates
            note = finding.refusal or ('DEVIATES' if finding.deviates else '')
            numbers = [f'{finding.error:.1e}', f'{finding.forward:.2f}', f'{finding.training:.2f}']
            numbers.append('-' if finding.peak is None else f'{finding.peak:.0f}')
            cells = ['-'] * len(numbers) if finding.refusal else numbers
            backend = f'{finding.backend}{"*" * finding.is_default}'
            print(f'| {" | ".join([job.network, shape, backend, *cells, note])} |', flush=True)
    return status


def main() -> int:
    """Print the versions, properties and fixes; return the exit status."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add('--markdown', action='store_true', help='print Markdown for a bug report')
    add('--gpu', action='store_true', help='also compare attention backends: error, time, memory')
    args = parser.parse_args()
    state = look()
    if args.gpu and not state.cuda_works:
        parser.error('--gpu: PyTorch finds no usable GPU')
    lines = [f'{name}: {what}' for name, what in surroundings(state).items()]
    if args.markdown:
        print(*(f'- {line}' for line in lines), '', markdown_table(COLUMNS, rows(state)), sep='\n')
    else:
        table = Table(*(Column(name, overflow='fold') for name in COLUMNS))
        for row in rows(state):
            table.add_row(*row)
        Console(width=None if sys.stdout.isatty() else 120).print(table)
        print(*lines, 'For a bug report: mmrest check --markdown', sep='\n')
    status = check_backends('cuda') if args.gpu else 0
    return 1 if remedies(state) else status
