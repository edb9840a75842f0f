"""What is installed, what is supported, what to do.

Exit status 1 when something is broken. With ``--markdown`` it prints what belongs into an issue.
"""

import argparse
import contextlib
import glob
import importlib
import io
import os
import platform
import re
import subprocess
import sys
import warnings
from importlib import metadata
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

from rich.console import Console
from rich.table import Table

from ..operators import ENVIRONMENT_VARIABLE, describe
from .command import markdown_table


class Package(NamedTuple):
    """A package that matters here.

    Attributes:
        module: what is imported.
        distributions: names under which it is installed; the forks that are maintained under
            other names go on working.
        needed_by: what it is for; None for what mmrest itself cannot do without.
    """

    module: str
    distributions: Tuple[str, ...]
    needed_by: Optional[str]


PACKAGES = (
    Package('torch', ('torch',), None),
    Package('mmengine', ('mmengine', 'onedl-mmengine'), None),
    Package('mmcv', ('mmcv', 'mmcv-full', 'onedl-mmcv', 'mmcv-lite'), None),
    Package('mmrest', ('mmrest',), None),
    Package('mmdet', ('mmdet', 'onedl-mmdetection'), 'detection'),
    Package('mmseg', ('mmsegmentation', 'onedl-mmsegmentation'), 'segmentation'),
    Package('ftfy', ('ftfy',), 'mmseg'),
    Package('regex', ('regex',), 'mmseg'),
    Package('numpy', ('numpy',), None),
    Package('cv2', ('opencv-python', 'opencv-python-headless'), None),
    Package('pycocotools', ('pycocotools',), 'mmdet'),
    Package('mmpretrain', ('mmpretrain', 'onedl-mmpretrain'), 'classification'),
    Package('torchvision', ('torchvision',), 'mmpretrain'),
    Package('triton', ('triton',), 'kernels on NVIDIA GPUs'),
)


SUPPORTED = {'Python': ((3, 8), (3, 13)), 'torch': ((2, 1), (2, 14))}
"""Oldest and newest release that mmrest was tried with; ``make test-versions`` runs both ends."""


class State(NamedTuple):
    """What was found.

    Attributes:
        versions: module -> distribution and version, of what is installed.
        faults: module -> the first line of the error that importing it raises.
        facts: further findings by name, see :func:`look`.
    """

    versions: Dict[str, Tuple[str, str]]
    faults: Dict[str, str]
    facts: Dict[str, object]


def look() -> State:
    """Find out what is installed and whether it imports."""
    versions, faults, facts = {}, {}, {}
    for package in PACKAGES:
        for name in package.distributions:
            with contextlib.suppress(metadata.PackageNotFoundError):
                versions.setdefault(package.module, (name, metadata.version(name)))
    for module in (*(p.module for p in PACKAGES if p.module in versions), 'mmcv._ext'):
        with warnings.catch_warnings(), contextlib.redirect_stderr(
            io.StringIO()
        ), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter('ignore')
            try:
                importlib.import_module(module)
            except Exception as error:  # whatever a broken package raises
                faults[module] = str(error).strip().split('\n')[0] or type(error).__name__
    facts['both mmcv'] = all(_is_installed(name) for name in ('mmcv', 'mmcv-lite'))
    facts['gpu'] = bool(glob.glob('/dev/nvidia[0-9]*'))
    if 'torch' in versions and 'torch' not in faults:
        import torch

        facts['torch cuda'] = torch.version.cuda
        facts['cuda works'] = torch.cuda.is_available()
        if 'mmcv._ext' not in faults:
            from mmcv.ops import get_compiling_cuda_version

            facts['operators'] = describe()
            facts['compiled without CUDA'] = (
                facts['operators'] == 'compiled'
                and get_compiling_cuda_version() == 'not available'
            )
    return State(versions, faults, facts)


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def supported_versions() -> Dict[str, str]:
    """Distribution -> versions that the extras of mmrest ask for."""
    try:
        requirements = metadata.requires('mmrest') or []
    except metadata.PackageNotFoundError:
        return {}
    return dict(re.findall(r'^([\w-]+) *\(?([=<>][^;)]*[^; )])', '\n'.join(requirements), re.M))


def _number(version: str) -> Tuple[int, ...]:
    return tuple(map(int, re.findall(r'\d+', version)[:3]))


def supported_range(name: str) -> str:
    """The range of :data:`SUPPORTED`, in words."""
    return ' to '.join('.'.join(map(str, release)) for release in SUPPORTED[name])


def outside(name: str, version: str) -> Optional[str]:
    """What to know of a release that is not in :data:`SUPPORTED`; None for the others."""
    oldest, newest = SUPPORTED[name]
    release = _number(version)[:2]
    if release < oldest:
        return f'too old, mmrest supports {supported_range(name)}: install a newer one'
    if release > newest:
        return f'newer than what mmrest was tried with, {supported_range(name)}: run its tests'
    return None


def remedies(state: State) -> Dict[str, str]:
    """What is broken and what to do: module -> remedy."""
    found: Dict[str, str] = {}
    versions, faults, facts = state
    for package in PACKAGES:
        needed = package.needed_by is None or package.needed_by in versions
        if package.module not in versions and needed:
            user = package.needed_by or 'mmrest'
            found[package.module] = f'{user} needs it: pip install {package.distributions[0]}'
        elif package.module in faults:
            found[package.module] = f'does not import ({faults[package.module]}): reinstall it'
    mmcv, mmcv_version = versions.get('mmcv', ('', ''))
    mmdet, mmdet_version = versions.get('mmdet', ('', ''))
    swap = (
        f'pip uninstall -y mmcv, then pip install mmcv-lite=={mmcv_version}: torchvision does the '
        'work of its operators; or install the wheel of mmcv that was built for your torch'
    )
    if facts.get('both mmcv'):
        found['mmcv'] = 'mmcv and mmcv-lite overwrite each other: uninstall both, then install one'
    elif mmcv == 'mmcv' and mmdet == 'mmdet' and _number(mmcv_version) >= (2, 2):
        found['mmcv'] = f'mmdet {mmdet_version} refuses mmcv from 2.2.0 on: pip install "mmcv<2.2"'
    elif {'mmdet', 'mmseg'} & versions.keys() and 'mmcv._ext' in faults and mmcv:
        if mmcv != 'mmcv-lite':
            reason = faults['mmcv._ext']
            found['mmcv'] = f'its compiled operators do not import ({reason}): {swap}'
        elif os.environ.get(ENVIRONMENT_VARIABLE) == 'off':
            found['mmcv'] = f'{ENVIRONMENT_VARIABLE}=off leaves it without operators: unset it'
        else:
            found['torchvision'] = (
                'mmcv-lite has no operators without it: install the release of your torch'
            )
    elif facts.get('cuda works') and facts.get('compiled without CUDA'):
        found['mmcv'] = f'its operators were compiled without CUDA: {swap}'
    if facts.get('gpu') and 'torch' in versions and 'torch' not in faults:
        if not facts.get('torch cuda'):
            found['torch'] = 'there is a GPU, but this build has no CUDA: install a CUDA build'
        elif not facts.get('cuda works'):
            found['torch'] = (
                f'there is a GPU, but CUDA {facts["torch cuda"]} does not start: see nvidia-smi, '
                'the driver may be too old for it'
            )
    torch_version = versions.get('torch', ('', ''))[1]
    if torch_version and _number(torch_version)[:2] < SUPPORTED['torch'][0]:
        found['torch'] = str(outside('torch', torch_version))
    if 'torchvision' in found and 'mmpretrain' in versions:
        found['torchvision'] = 'mmpretrain imports it: install the release of your torch'
    for module in ('ftfy', 'regex'):
        if module in found:
            found[module] = f'mmseg imports it without asking for it: pip install {module}'
    return found


def commit() -> Optional[str]:
    """Commit of the clone that mmrest is imported from, marked where files were changed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / '.git').exists():
        return None
    try:
        return subprocess.run(
            ['git', '-C', str(root), 'describe', '--always', '--dirty', '--abbrev=12'],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def surroundings(state: State) -> Dict[str, str]:
    """What a run depends on besides packages, by name."""
    facts, python = state.facts, platform.python_version()
    threads = os.environ.get('OMP_NUM_THREADS', 'not set')
    found = {
        'Python': f'{python} ({outside("Python", python) or "supported"})',
        'system': platform.platform(),
        'processor': f'{os.cpu_count()} cores, OMP_NUM_THREADS {threads}',
        'commit of mmrest': commit() or 'none, it is installed',
        'CUDA of torch': str(facts.get('torch cuda') or 'none'),
        'GPU': 'there is one' if facts['gpu'] else 'none',
    }
    if facts.get('cuda works'):
        found['GPU'] = '; '.join(_gpus())
    if 'operators' in facts:
        found['operators of mmcv'] = str(facts['operators'])
    if not {'torch', 'mmcv', 'mmengine'} & state.faults.keys() and 'torch' in state.versions:
        found['attention'] = _attention()
    return found


def _gpus() -> List[str]:
    import torch

    gpus = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return [
        f'{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, capability {gpu.major}.{gpu.minor}'
        for gpu in gpus
    ]


def _attention() -> str:
    """The backend that a backbone would take here, and why not the first one."""
    import torch

    from ..ops.dispatch import ENVIRONMENT_VARIABLE, forced_backend
    from ..ops.gpu import refuse_triton

    try:
        forced = forced_backend()
    except ValueError as error:
        return str(error)
    if forced is not None:
        return f'{forced}, forced by {ENVIRONMENT_VARIABLE}'
    x = torch.empty(1, 1, 1, 8, device='cuda' if torch.cuda.is_available() else 'cpu')
    reason = refuse_triton(x, x, x)
    return 'triton' if reason is None else f'torch; not triton: {reason}'


def rows(state: State) -> List[Tuple[str, str, str, str]]:
    """Distribution, version, versions that are supported, and what to do, of each package."""
    supported, broken = supported_versions(), remedies(state)
    found = []
    for package in PACKAGES:
        name, version = state.versions.get(package.module, (package.distributions[0], '-'))
        status = broken.get(package.module)
        if status is None and package.module in SUPPORTED:
            status = outside(package.module, version)
        if version == '-' and package.module not in broken:
            status = f'only for {package.needed_by}'
        if package.module in SUPPORTED:
            supported[name] = supported_range(package.module)
        wanted = supported.get(name) or supported.get(package.distributions[0], 'any')
        found.append((name, version, wanted, status or 'fine'))
    return found


COLUMNS = ('package', 'found', 'supported', 'what to do')


def markdown(state: State) -> str:
    """The findings for an issue."""
    lines = [f'- {name}: {what}' for name, what in surroundings(state).items()]
    return '\n'.join([*lines, '', markdown_table(COLUMNS, rows(state))])


def main() -> int:
    """Print the findings.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--markdown', action='store_true', help='for pasting into an issue')
    args = parser.parse_args()
    state = look()
    if args.markdown:
        print(markdown(state))
    else:
        console = Console(width=None if sys.stdout.isatty() else 120)
        table = Table()
        for column in COLUMNS:
            table.add_column(column, overflow='fold')
        for row in rows(state):
            table.add_row(*row)
        console.print(table)
        for name, what in surroundings(state).items():
            console.print(f'{name}: {what}', highlight=False, markup=False)
        console.print('For a bug report: mmrest check --markdown', highlight=False)
    return 1 if remedies(state) else 0
