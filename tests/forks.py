"""Python process with imported libraries, for the many commands of the documents.

`warm_folder` starts one process that imports torch, mmdet and mmseg, and leaves a program `python`
that has it fork for each command: the command runs in a process of its own, with its own
arguments, folder, environment and streams, and the seconds of the imports are spent once.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import multiprocessing
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import types
from pathlib import Path

import torch

CLIENT = '''\
#!{python} -SE
"""Has {socket} run a command; another Python than that takes what it does not know."""
import json, os, signal, socket, sys
command = sys.argv[2:] if sys.argv[1:2] == ['-u'] else sys.argv[1:]
if not command or (command[0].startswith('-') and command[0] not in ('-c', '-m')):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
server = socket.socket(socket.AF_UNIX)
server.connect({socket!r})
socket.send_fds(server, [b' '], [0, 1, 2])
order = json.dumps([command, os.getcwd(), dict(os.environ)])
print(order, file=server.makefile('w'), flush=True)
process = int.from_bytes(server.recv(4), 'big')
signal.signal(signal.SIGTERM, lambda number, frame: os.kill(process, number))
status = server.recv(1)
sys.exit(status[0] if status else 1)
'''


def quicken() -> None:
    """Skip steps of mmengine that take seconds without an effect on results."""
    from mmengine.config import config, utils
    from mmengine.dataset import base_dataset
    from mmengine.runner import loops, runner

    config.FormatCode = lambda text, **style: (text, True)  # of configs that are kept and logged
    utils.load = functools.lru_cache(maxsize=None)(utils.load)  # a hundred files per config
    base_dataset.gc = types.SimpleNamespace(collect=int)  # for every dataset
    loops.time = types.SimpleNamespace(sleep=id)  # between two passes over the data
    runner.collect_env = functools.lru_cache(maxsize=None)(runner.collect_env)  # asks compilers


@functools.lru_cache(maxsize=None)
def warm_folder() -> Path:
    """Folder with the `python` of that process; both are removed with this process."""
    if not hasattr(socket, 'send_fds'):  # Python 3.8
        return Path(sys.executable).parent
    # A short name: those of sockets have at most 100 letters.
    folder = tempfile.mkdtemp(prefix='forks-')
    address, client = f'{folder}/socket', Path(folder, 'python')
    client.write_text(CLIENT.format(python=sys.executable, socket=address))
    client.chmod(0o755)
    server = subprocess.Popen([sys.executable, '-W', 'ignore', __file__, address])
    # Not a TemporaryDirectory: in a child of multiprocessing, Python 3.13 drops what atexit holds,
    # and the object would remove its folder.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for last_step in (server.wait, server.terminate):
        atexit.register(last_step)  # the one that was registered last comes first
    while not os.path.exists(address):
        if server.poll() is not None:
            raise RuntimeError('the process that forks did not start')
        time.sleep(0.05)
    return client.parent


def serve(address: str) -> None:
    """Import, and fork for each command."""
    for library in ('mmrest', 'mmdet.apis', 'mmseg.apis', 'mmpretrain.apis'):
        with contextlib.suppress(ImportError):
            importlib.import_module(library)
    quicken()
    from mmengine.config import Config

    for config in ('maskrcnn_rmt_t_1x', 'semfpn_rmt_t_80k'):  # caches the metafiles they read
        with contextlib.suppress(ImportError):
            Config.fromfile(Path(__file__).parents[1] / 'configs' / f'{config}.py')
    gc.freeze()  # or every collection of a child would copy what it looks at
    server = socket.socket(socket.AF_UNIX)
    server.bind(address)
    server.listen()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that answer
    while True:
        client, _ = server.accept()
        if os.fork() == 0:
            server.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _answer(client)
            os._exit(0)
        client.close()


def _answer(client: socket.socket) -> None:
    _, streams, _, _ = socket.recv_fds(client, 1, 3)
    order = json.loads(client.makefile().readline())
    command = multiprocessing.get_context('fork').Process(target=_run, args=(streams, *order))
    command.start()
    client.sendall(command.pid.to_bytes(4, 'big'))
    command.join()
    ended = command.exitcode
    client.sendall(bytes([ended if ended >= 0 else 128 - ended]))


def _run(streams: list, arguments: list, folder: str, environ: dict) -> None:
    """Become the command."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    torch.set_num_threads(int(environ.get('OMP_NUM_THREADS', torch.get_num_threads())))
    status = None
    try:
        _execute(arguments, environ)
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
        status = 1
    gc.collect()  # the frames of the command, and with them its loaders, which end their workers
    sys.exit(status)


def _execute(arguments: list, environ: dict) -> None:
    kind, *rest = arguments
    sys.path[0] = '' if kind in ('-c', '-m') else os.path.dirname(os.path.abspath(kind))
    sys.path[1:1] = filter(None, environ.get('PYTHONPATH', '').split(os.pathsep))
    if kind == '-c':
        sys.argv = ['-c', *rest[1:]]
        exec(compile(rest[0], '<string>', 'exec'), {'__name__': '__main__'})
    elif kind == '-m':
        sys.argv = rest
        runpy.run_module(rest[0], run_name='__main__', alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(kind, run_name='__main__')


if __name__ == '__main__':
    serve(sys.argv[1])
