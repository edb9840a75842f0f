"""Entry point of the ``mmrest`` command and of the scripts in tools/.

This module is outside the package because ``import mmrest`` imports torch, which takes seconds,
and because OpenMP reads its environment when torch is loaded.
"""

import difflib
import glob
import importlib
import importlib.util
import os
import runpy
import select
import sys
from pathlib import Path
from typing import Any, Dict, Optional

COMMANDS = {
    'train': 'train a detector, segmentor or classifier',
    'test': 'evaluate a checkpoint',
    'infer': 'run inference on images, folders and videos',
    'report': 'write an HTML report of a run',
    'curves': 'plot the training curves of runs',
    'browse': 'draw the images of a dataset with their annotations',
    'visualize': 'plot attention, decay, receptive fields and features',
    'benchmark': 'measure speed and memory, or compare checkpoints',
    'flops': 'count parameters and MACs',
    'export': 'export a network to ONNX',
    'convert': 'convert a checkpoint to a clean file',
    'publish': 'strip a checkpoint of a run to its weights',
    'configs': 'list the shipped configs',
    'config': 'print a resolved config',
    'check': 'check the environment',
    'shapes': 'generate the synthetic shapes dataset',
    'demo': 'train and evaluate on synthetic shapes',
}

SHARED = {
    'browse': ('inspect', 'browse'),
    'config': ('inspect', 'config'),
    'curves': ('report', 'curves'),
    'publish': ('convert', 'strip'),
    'shapes': ('demo', 'shapes'),
}
"""Command without its own module -> module of mmrest.cli, and function."""


def main(command: Optional[str] = None) -> None:
    """Run a command of :mod:`mmrest.cli`, by default the one that the command line names."""
    for name in ('stdin', 'stdout', 'stderr'):
        if getattr(sys, name) is None:  # closed, as by a daemon; no file may get its place
            setattr(sys, name, open(os.devnull, 'r+'))
            os.set_inheritable(getattr(sys, name).fileno(), True)
    try:
        _run(command)
        sys.stdout.flush()
    except BrokenPipeError:
        output = select.poll()
        output.register(sys.stdout.fileno(), 0)
        if not output.poll(0):  # another pipe
            raise
        # The reader of the output, such as head, has closed it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:  # Python ends by the signal, so that shells end their loops
        sys.excepthook = lambda *error: None
        raise


def _run(command: Optional[str]) -> None:
    if command is None:
        command = _chosen(sys.argv[1] if len(sys.argv) > 1 else '--help')
        sys.argv = [f'mmrest {command}', *sys.argv[2:]]
    limit_spinning()
    if command == 'configs':  # needs neither mmrest nor torch
        _names_of('shipped')['main']()
        return
    module, function = SHARED.get(command, (command, 'main'))
    try:
        from mmrest.cli.command import run

        program = getattr(importlib.import_module(f'mmrest.cli.{module}'), function)
    except ModuleNotFoundError as error:
        if error.name not in ('torch', 'mmengine', 'mmcv'):
            raise
        needed = 'pip install torch torchvision "mmrest[all]"'
        sys.exit(f'mmrest: error: {error.name} is not installed: {needed}')
    run(program)


def _chosen(word: str) -> str:
    if word in COMMANDS:
        return word
    if word in ('-h', '--help', 'help'):
        width = max(map(len, COMMANDS))
        lines = [f'  {name:{width}}  {summary}' for name, summary in COMMANDS.items()]
        print('usage: mmrest COMMAND ...\n\ncommands:', *lines, sep='\n')
        print('\n"mmrest COMMAND --help" lists the options of a command.')
        sys.exit()
    if word == '--version':
        print(_names_of('version')['__version__'])
        sys.exit()
    near = difflib.get_close_matches(word, COMMANDS, 1)
    hint = f'did you mean {near[0]}?' if near else f'choose from {", ".join(COMMANDS)}'
    print(f'mmrest: error: unknown command {word!r}; {hint}', file=sys.stderr)
    sys.exit(2)


def _names_of(module: str) -> Dict[str, Any]:
    """Run a file of the package without importing the package, and return its globals."""
    package = Path(importlib.util.find_spec('mmrest').origin).parent
    return runpy.run_path(str(package / f'{module}.py'))


def limit_spinning() -> None:
    """Limit how long OpenMP's threads spin, unless there is a GPU or the user has set it.

    Torch's threads spin while they wait for each other. If another job uses the same cores,
    a thread may spin for one that is not running, and block its core. On an idle machine, sleeping
    at once is slow, because waking a thread takes longer than many ops. So threads spin briefly.
    """
    decided = any(name in os.environ for name in ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT'))
    if not decided and not glob.glob('/dev/nvidia[0-9]*'):
        os.environ['GOMP_SPINCOUNT'] = '10000'


if __name__ == '__main__':
    main()
