"""Documentation pages: blocks of commands and Python, links, and how blocks are run.

- Blocks of ``bash`` and ``python`` are run in the order of the page, from the root of a clone
  whose networks and datasets are small. Other languages and indented blocks are for reading.
- ``<!-- needs: COCO in data/coco -->`` in the line before a block says what it needs that is not
  here. It is not run; its syntax and the files that it names are looked at.
- Python that sets ``_base_`` is a config: its model is built. Where its first line is a comment
  with a path, ``# configs/mine.py``, the block is written there for the commands that follow.
"""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from mmengine.config import Config

from mmrest.engine.building import check_model
from mmrest.models import RMT, ResT
from tests.cli.test_demo import SMALL
from tests.forks import warm_folder
from tests.runs import ROOT, save_weights, small_clone

PAGES = sorted([ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *(ROOT / 'docs').rglob('*.md')])

FENCE = re.compile(
    r'(?:^<!-- needs: (?P<needs>.+?) -->\n+)?^```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^```$',
    re.M | re.S,
)
REPOSITORY_FILE = re.compile(r'(?<![\w./-])(?:tools|configs|docs|mmrest|requirements)/[\w./-]+')


def blocks(page: Path):
    """Blocks of a page, in order: language, text, and requirements that are missing here."""
    return [SimpleNamespace(**found.groupdict()) for found in FENCE.finditer(page.read_text())]


def name(page: Path) -> str:
    """Name of a page: its path in the repository."""
    return str(page.relative_to(ROOT))


def links(page: Path):
    """Return the local targets of links and images of a page, without code blocks."""
    prose = re.sub(r'`[^`\n]*`', '', FENCE.sub('', page.read_text()))
    return re.findall(r'\]\((?!https:)([^)\s]+)\)', prose)


def anchors(page: Path):
    """Return the anchors of the headings of a page."""
    prose = FENCE.sub('', page.read_text())
    titles = re.findall(r'^#+ (.+)$', prose, re.M)
    return {re.sub(r'[^\w -]', '', title.lower()).strip().replace(' ', '-') for title in titles}


# make and pip would change the environment in which the tests run, so they say what they would do.
SHELL = """
set -euo pipefail
make() { command make --dry-run "$@"; }
pip() { python -m pip "$@" --dry-run --no-deps --no-build-isolation; }
mmrest() {  # with the small configs of the clone
    local arguments=() word
    for word; do
        if [ -f "configs/$word.py" ]; then word="configs/$word.py"; fi
        arguments+=("$word")
    done
    python -m mmrest_cli "${arguments[@]}"
}
"""


class Place:
    """Clone in a new folder in which the blocks of a page are run, and their output.

    It has small sets in the layouts of COCO and ADE20K. It is the working directory of Python.
    """

    def __init__(self, folder: Path, coco: Path, ade: Path) -> None:
        folder.mkdir()
        self.clone = small_clone(folder)
        for config, text in SMALL.items():
            (folder / 'configs' / config).write_text(text)
        self.printed = ''
        self._names = {'__name__': '__main__'}
        (folder / 'data' / 'ade').mkdir(parents=True)
        (folder / 'data' / 'coco').symlink_to(coco)
        (folder / 'data' / 'ade' / 'ADEChallengeData2016').symlink_to(ade)
        shutil.copy(next((coco / 'val2017').glob('*.jpg')), folder / 'photo.jpg')
        (folder / '.venv').symlink_to(sys.prefix)
        self._leave_weights()

    def _leave_weights(self) -> None:
        """Provide downloads, and results of long training runs."""
        config = self.clone / 'configs' / 'maskrcnn_rmt_s_3x.py'
        arch = Config.fromfile(config).model.backbone.arch
        arch.pop('_delete_', None)
        torch.save({'model': RMT(dict(arch)).state_dict()}, self.clone / 'RMT-S.pth')
        torch.save(ResT('lite').state_dict(), self.clone / 'rest_lite.pth')
        trained = self.clone / 'work_dirs' / 'maskrcnn_rmt_s_3x' / 'epoch_36.pth'
        trained.parent.mkdir(parents=True)
        save_weights(trained, config)

    def run(self, block: SimpleNamespace) -> None:
        if block.needs:
            self._look_at(block)
        elif block.language == 'bash':
            self._run_commands(block.text)
        elif '_base_ =' in block.text:
            self._build(block.text)
        else:
            self._run_python(block.text)

    def _look_at(self, block: SimpleNamespace) -> None:
        if block.language == 'bash':
            subprocess.run(['bash', '-n', '-c', block.text], check=True)
        else:
            compile(block.text, '<page>', 'exec')
        for path in REPOSITORY_FILE.findall(block.text):
            assert (self.clone / path).exists(), f'{path} is not there:\n{block.text}'

    def _run_python(self, text: str) -> None:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(text, '<page>', 'exec'), self._names)
        self.printed += printed.getvalue()

    def _run_commands(self, text: str) -> None:
        # As after `. .venv/bin/activate`, but for the python that starts at once.
        folders = warm_folder(), Path(sys.executable).parent, os.environ['PATH']
        done = subprocess.run(
            ['bash', '-c', SHELL + text],
            cwd=self.clone, env={**os.environ, 'PATH': os.pathsep.join(map(str, folders))},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=900,
        )  # fmt: skip
        self.printed += done.stdout
        assert done.returncode == 0, f'{text} failed:\n{done.stdout}'

    def _build(self, text: str) -> None:
        """Build the full model of a config on the meta device."""
        named = re.match(r'# (configs/\S+\.py)\n', text)
        if named:
            (self.clone / named[1]).write_text(text)
        whole = self.clone.with_name('whole')
        shutil.copytree(ROOT / 'configs', whole, dirs_exist_ok=True)
        (whole / 'of_the_page.py').write_text(text)
        check_model(Config.fromfile(whole / 'of_the_page.py'))
