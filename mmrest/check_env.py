"""``python -m mmrest.check_env``: what is installed, what was tried, what to do.

Exit status 1 when something is broken. Paste its output into an issue.
"""

import contextlib
import glob
import importlib
import io
import platform
import re
import sys
import warnings
from importlib import metadata
from typing import Dict, NamedTuple, Optional, Tuple

from rich.console import Console
from rich.table import Table


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
)


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
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
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

            facts['mmcv cuda'] = get_compiling_cuda_version() != 'not available'
    return State(versions, faults, facts)


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def tried_versions() -> Dict[str, str]:
    """Distribution -> version that mmrest was tried with, as its own metadata says."""
    try:
        requirements = metadata.requires('mmrest') or []
    except metadata.PackageNotFoundError:
        return {}
    return dict(re.findall(r'^([\w-]+)==([\w.]+)', '\n'.join(requirements), re.M))


def _number(version: str) -> Tuple[int, ...]:
    return tuple(map(int, re.findall(r'\d+', version)[:3]))


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
    if facts.get('both mmcv'):
        found['mmcv'] = (
            'mmcv and mmcv-lite overwrite each other: pip uninstall both, then install mmcv'
        )
    elif mmcv == 'mmcv' and mmdet == 'mmdet' and _number(mmcv_version) >= (2, 2):
        found['mmcv'] = f'mmdet {mmdet_version} refuses mmcv from 2.2.0 on: pip install "mmcv<2.2"'
    elif {'mmdet', 'mmseg'} & versions.keys() and 'mmcv._ext' in faults and mmcv:
        if mmcv == 'mmcv-lite':
            found['mmcv'] = 'has no operators: pip uninstall mmcv-lite, then install mmcv'
        else:
            found['mmcv'] = (
                f'its operators do not import ({faults["mmcv._ext"]}): they were made for another '
                'torch, or not at all; MMCV_WITH_OPS=1 pip install --no-cache-dir '
                f'--force-reinstall --no-deps --no-build-isolation mmcv=={mmcv_version}'
            )
    elif facts.get('cuda works') and facts.get('mmcv cuda') is False:
        found['mmcv'] = 'its operators were built without CUDA: reinstall it with nvcc on the PATH'
    if facts.get('gpu') and 'torch' in versions and 'torch' not in faults:
        if not facts.get('torch cuda'):
            found['torch'] = 'there is a GPU, but this build has no CUDA: install a CUDA build'
        elif not facts.get('cuda works'):
            found['torch'] = (
                f'there is a GPU, but CUDA {facts["torch cuda"]} does not start: see nvidia-smi, '
                'the driver may be too old for it'
            )
    if 'torchvision' in found:
        found['torchvision'] = 'mmpretrain imports it: install the release of your torch'
    for module in ('ftfy', 'regex'):
        if module in found:
            found[module] = f'mmseg imports it without asking for it: pip install {module}'
    return found


def main() -> int:
    """Print the table; returns the exit status."""
    state, tried = look(), tried_versions()
    broken = remedies(state)
    table = Table(title=f'Python {platform.python_version()}, {platform.platform()}')
    for column in ('package', 'found', 'tried', 'what to do'):
        table.add_column(column, overflow='fold')
    for package in PACKAGES:
        name, version = state.versions.get(package.module, (package.distributions[0], '-'))
        known = tried.get(package.distributions[0], 'any')
        status = broken.get(package.module, 'fine')
        if version == '-' and package.module not in broken:
            status = f'only for {package.needed_by}'
        table.add_row(name, version, known, status)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    facts = state.facts
    console.print(f'CUDA of torch: {facts.get("torch cuda") or "none"}; GPU: {facts["gpu"]}')
    return 1 if broken else 0


if __name__ == '__main__':
    sys.exit(main())
