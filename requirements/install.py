"""Make the environments that mmrest is developed and tested in: ``make env``, ``make env-cls``.

Uses nothing but the standard library. Every version stands in the text files beside this one.
An environment passes for complete only after everything in it was proven to work; then a second
run changes nothing.
"""

import argparse
import hashlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

REQUIREMENTS = Path(__file__).resolve().parent
ROOT = REQUIREMENTS.parent

NETWORK = "see pip's message above; mostly the network or its proxy, then run make again"

# An operator is run too: a library built for another torch may import and fail later.
OPERATORS_WORK = """
import torch
import mmcv._ext
from mmcv.ops import get_compiling_cuda_version, nms
boxes = torch.tensor([[0., 0., 4., 4.], [0., 0., 4., 3.9]])
kept = nms(boxes, torch.tensor([.9, .8]), .5)[1].tolist()
assert kept == [0], kept
if torch.cuda.is_available():
    assert get_compiling_cuda_version() != 'not available', 'built without CUDA'
"""

CUDA_STATE = """
import os, torch
from torch.utils.cpp_extension import CUDA_HOME
nvcc = bool(CUDA_HOME) and os.path.exists(os.path.join(CUDA_HOME, 'bin', 'nvcc'))
print(torch.version.cuda if torch.cuda.is_available() and not nvcc else '')
"""


class Contents(NamedTuple):
    """What an environment holds; its versions are those of files beside this one.

    Attributes:
        command: of make, which sets it up.
        torch: file that names the torch to install unless another is chosen.
        packages: file of the OpenMMLab packages, which no later step may replace.
        extras: files of what else is needed.
        operators: whether mmcv's operators are compiled for it.
        imports: what must import in the end.
    """

    command: str
    torch: str
    packages: str
    extras: Tuple[str, ...]
    operators: bool
    imports: str


CONTENTS = {
    'all': Contents(
        'env',
        'torch.txt',
        'mminstall.txt',
        ('runtime.txt', 'tests.txt', 'optional.txt', 'docs.txt'),
        True,
        'import safetensors, mmengine, mmcv.ops, mmdet.models, mmseg.models, mmrest',
    ),
    'cls': Contents(
        'env-cls',
        'cls_torch.txt',
        'cls_mminstall.txt',
        ('runtime.txt', 'cls.txt', 'cls_tests.txt'),
        False,
        'import safetensors, mmengine, mmpretrain.models, mmrest.classification',
    ),
}


def _pinned(name: str, package: str = '') -> str:
    """The lines of a requirements file that begin with `package`, as arguments for pip."""
    lines = (REQUIREMENTS / name).read_text().split('\n')
    return ' '.join(x for x in lines if x and x.startswith(package) and x[0] != '#')


class StepFailed(Exception):
    """A step that did not succeed; the message names it and the remedy."""


class Environment:
    """A virtual environment and the record of what was asked of it.

    Args:
        path: its folder.
        torch: pip's arguments for torch, None for those of an earlier run, else of `contents`.
        contents: what it is to hold.
    """

    def __init__(
        self, path: Path, torch: Optional[str], contents: Contents = CONTENTS['all']
    ) -> None:
        self.contents = contents
        self.path = path.absolute()
        self.python = self.path / ('Scripts' if os.name == 'nt' else 'bin') / 'python'
        self.record = self.path / '.mmrest.json'
        self.known = self._read_record()
        self.chosen = torch or self.known.get('chosen')
        self.torch = self.chosen or _pinned(contents.torch)

    def _read_record(self) -> Dict[str, Any]:
        try:
            return json.loads(self.record.read_text())
        except (OSError, ValueError):
            return {}

    def _fingerprint(self) -> str:
        """Changes with whatever would make this environment come out differently."""
        asked = (self.contents.command, self.torch, str(ROOT), sys.version_info[:2])
        digest = hashlib.sha256(repr(asked).encode())
        for file in (*sorted(REQUIREMENTS.iterdir()), ROOT / 'setup.py'):
            if file.is_file():
                digest.update(file.read_bytes())
        return digest.hexdigest()

    def is_complete(self) -> bool:
        """Whether an earlier run proved all that this one would install."""
        return self.known.get('proven') == self._fingerprint() and self.output('') is not None

    def mark(self, torch_installed: bool = False, complete: bool = False) -> None:
        """Record how far the installation has come.

        The choice of torch is remembered from the moment it was there, for later runs; one that
        pip could not install is not.
        """
        if torch_installed or complete:
            self.known.update(chosen=self.chosen, torch=self.torch)
        self.known['proven'] = self._fingerprint() if complete else None
        self.record.write_text(json.dumps(self.known))

    def create(self) -> None:
        """Create the virtual environment where there is none."""
        version = '.'.join(map(str, sys.version_info[:2]))
        if self.python.exists():
            asks = 'import sys; print("%d.%d" % sys.version_info[:2])'
            found = self.output(asks) or 'that does not start'
            if found != version:
                raise StepFailed(
                    f'{self.path} holds Python {found}, not {version}: remove it, or choose '
                    'another folder with VENV= or the same interpreter with PYTHON='
                )
            if self.output('import pip') is not None:  # a creation that broke off leaves none
                return
        self.run(
            'create the virtual environment',
            [sys.executable, '-m', 'venv', str(self.path)],
            "Python's venv module is needed (Debian: apt install python3-venv); PYTHON= chooses "
            'another interpreter',
        )

    def run(self, step: str, command: List[str], remedy: str, **variables: str) -> None:
        """Run a command, or raise StepFailed."""
        print(f'[make {self.contents.command}] {step}', flush=True)
        environ = dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK='1', **variables)
        if subprocess.run(command, cwd=ROOT, env=environ).returncode:
            raise StepFailed(f'could not {step}: {remedy}')

    def pip(
        self, step: str, arguments: List[str], remedy: str = NETWORK, **variables: str
    ) -> None:
        """``pip install`` under the versions of requirements/, or raise StepFailed."""
        constraints = []
        for name in ('build.txt', self.contents.packages):
            constraints += ['-c', str(REQUIREMENTS / name)]
        command = [f'{self.python}', '-m', 'pip', 'install', *constraints, *arguments]
        self.run(step, command, remedy, **variables)

    def output(self, code: str) -> Optional[str]:
        """What Python code prints in the environment, stripped; None where it fails."""
        command = [str(self.python), '-c', code]
        # Not in the repository, whose folders could pass for installed packages.
        try:
            done = subprocess.run(command, cwd=self.path, capture_output=True, text=True)
        except OSError:  # no such folder or program, or one for another machine
            return None
        return done.stdout.strip() if done.returncode == 0 else None


def install_mmcv(env: Environment) -> None:
    """Install mmcv with operators that work with the torch of the environment."""
    if env.output(OPERATORS_WORK) is not None:
        return
    cuda_without_nvcc = env.output(CUDA_STATE)
    if cuda_without_nvcc:
        raise StepFailed(
            'there is a CUDA device but no nvcc, which mmcv needs to compile its operators: '
            f'install the CUDA toolkit {cuda_without_nvcc} and set CUDA_HOME, or run '
            '`CUDA_VISIBLE_DEVICES= make env` for operators that run on the CPU alone'
        )
    requirement = _pinned(CONTENTS['all'].packages, 'mmcv')
    variables = {'MMCV_WITH_OPS': '1', 'MAX_JOBS': os.environ.get('MAX_JOBS', f'{os.cpu_count()}')}
    remedy = (
        'it needs a C++17 compiler and the headers of Python (Debian: apt install g++ '
        'python3-dev); where memory ran out, `MAX_JOBS=1 make env` takes less'
    )
    how = ['--no-build-isolation', '--progress-bar', 'off', requirement]
    print(
        '[make env] the operators of mmcv are compiled now: 11 minutes on two cores, unless '
        'pip kept them from another time',
        flush=True,
    )
    env.pip(f'install {requirement}', how, remedy, **variables)
    if env.output(OPERATORS_WORK) is None:
        fresh = ['--no-cache-dir', '--force-reinstall', '--no-deps', *how]
        step = f'compile {requirement} anew, because what pip kept was made for another torch'
        env.pip(step, fresh, remedy, **variables)
    if env.output(OPERATORS_WORK) is None:
        raise StepFailed(
            'the operators of mmcv do not work with this torch; '
            f'`{env.python} -c "import mmcv._ext"` says why; TORCH= chooses another torch'
        )


def install(env: Environment) -> None:
    """Carry out every step, or raise StepFailed."""
    contents = env.contents
    env.create()
    env.mark()
    env.pip('install the build tools', _all_of('build.txt'))
    if env.torch != env.known.get('torch', env.torch):
        # pip takes builds of one version for the same, whatever index they come from.
        step = f'remove the torch of before ({env.known["torch"]})'
        packages = ['torch', 'torchvision']
        env.run(step, [str(env.python), '-m', 'pip', 'uninstall', '-q', '-y', *packages], NETWORK)
    env.pip(
        f'install torch ({env.torch})',
        ['-q', *shlex.split(env.torch)],
        f'there may be no such version for this Python; or {NETWORK}; TORCH= chooses another '
        'build, for instance '
        "TORCH='torch --index-url https://download.pytorch.org/whl/cpu'",
    )
    env.mark(torch_installed=True)
    if contents.operators:
        install_mmcv(env)
    for name in (contents.packages, *contents.extras):
        env.pip(f'install what requirements/{name} lists', _all_of(name))
    editable = ['-q', '--no-build-isolation', '--no-deps', '-e', str(ROOT)]
    env.pip('install mmrest, editable', editable)
    print(f'[make {contents.command}] prove that everything imports', flush=True)
    # Once more: a later step could have replaced torch under the operators.
    proofs = [contents.imports] + [OPERATORS_WORK] * contents.operators
    if any(env.output(proof) is None for proof in proofs):
        raise StepFailed(
            f'the environment does not work; `{env.python} -c "{contents.imports}"` says why'
        )
    env.mark(complete=True)


def _all_of(name: str) -> List[str]:
    return ['-q', '-r', str(REQUIREMENTS / name)]


def main() -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('venv', type=Path, help='folder of the virtual environment')
    parser.add_argument('--torch', help="pip's arguments for torch, instead of the pinned one")
    parser.add_argument(
        '--set',
        choices=sorted(CONTENTS),
        default='all',
        help='what it holds: mmdet and mmseg (all), or mmpretrain (cls)',
    )
    args = parser.parse_args()
    env = Environment(args.venv, args.torch, CONTENTS[args.set])
    if env.is_complete():
        return 0
    try:
        install(env)
    except StepFailed as error:
        print(f'[make {env.contents.command}] {error}', file=sys.stderr)
        return 1
    print(f'[make {env.contents.command}] {env.path} is ready')
    return 0


if __name__ == '__main__':
    sys.exit(main())
