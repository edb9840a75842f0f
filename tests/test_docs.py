"""The documentation builds, its links resolve, its commands run, and its tables are up to date.

- Blocks of ``bash`` and ``python`` are run in the order of the page, from the root of a clone
  whose networks and datasets are small. Other languages and indented blocks are for reading.
- ``<!-- needs: COCO in data/coco -->`` in the line before a block says what it needs that is not
  here. It is not run; its syntax and the files that it names are looked at.
- Python that sets ``_base_`` is a config: its model is built. Where its first line is a comment
  with a path, ``# configs/mine.py``, the block is written there for the commands that follow.
"""

import contextlib
import dataclasses
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

import mmrest.apis
from mmrest.engine.building import check_model
from mmrest.models import RMT, ResT, rest, rmt
from mmrest.shipped import models, reported
from tests.cli.test_demo import SMALL
from tests.forks import warm_folder
from tests.runs import ROOT, save_weights, small_clone

PAGES = sorted([ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *(ROOT / 'docs').rglob('*.md')])
BLOCK = re.compile(
    r'(?:^<!-- needs: (?P<needs>.+?) -->\n+)?^```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^```$',
    re.M | re.S,
)
REPOSITORY_FILE = re.compile(r'(?<![\w./-])(?:tools|configs|docs|mmrest|requirements)/[\w./-]+')


def blocks(page, *languages):
    """Return the blocks of a page in some languages, in order, as matches of BLOCK."""
    return [b for b in BLOCK.finditer(page.read_text()) if b['language'] in languages]


def name(page):
    """Return the path of a page in the repository."""
    return str(page.relative_to(ROOT))


# What the blocks of a page print, among other things.
PRINTED = {
    'README.md': [
        'Would install mmrest', '4 images in ',
        'maskrcnn_rmt_s_3x.py passed all checks', 'coco/segm_mAP',
    ],
    'CONTRIBUTING.md': ['-m pytest', 'ruff', 'mkdocs'],
    'docs/backbones.md': [
        'mmrest/.mim', '(128, 256, 512) (8, 16, 32)', '[True, True, True]', 'rest_lite-',
        'maskrcnn_rmt_s_3x-',
    ],
    'docs/custom_data.md': [
        'own_coco.py passed all checks', 'own_coco_small.py passed all checks',
        'my_boxes.py passed all checks', 'own_segmentation.py passed',
    ],
    'docs/index.md': [
        'creating .venv-cpu with python3', 'training and 50 held-out images to data/shapes',
        'own_coco.py passed all checks', 'best so far: coco/segm_mAP',
    ],
    'docs/inference.md': ['4 images in ', ' pixels', '3 images'],
    'docs/migration.md': ['True'],
    'docs/train.md': [
        'maskrcnn_rmt_s_3x.py passed all checks', 'best so far: mIoU', 'with_cp=True',
        '| config | checkpoint | box AP | box AP, reported |',
    ],
}  # fmt: skip

# Up to minutes each, of commands that have tests of their own.
LONG = [
    'CONTRIBUTING.md',
    *(f'docs/{n}.md' for n in ('analysis', 'custom_data', 'index', 'train')),
]

RUN = [page for page in PAGES if blocks(page, 'bash', 'python')]


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

    It has small sets in the layouts of COCO and ADE20K, downloads, and results of long training
    runs. It is the working directory of Python.
    """

    def __init__(self, folder, coco, ade):
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
        config = folder / 'configs' / 'maskrcnn_rmt_s_3x.py'
        arch = Config.fromfile(config).model.backbone.arch
        arch.pop('_delete_', None)
        torch.save({'model': RMT(dict(arch)).state_dict()}, folder / 'RMT-S.pth')
        torch.save(ResT('lite').state_dict(), folder / 'rest_lite.pth')
        trained = folder / 'work_dirs' / 'maskrcnn_rmt_s_3x' / 'epoch_36.pth'
        trained.parent.mkdir(parents=True)
        save_weights(trained, config)

    def run(self, block):
        text = block['text']
        if block['needs']:
            self._look_at(block)
        elif block['language'] == 'bash':
            self._run_commands(text)
        elif '_base_ =' in text:
            self._build(text)
        else:
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile(text, '<page>', 'exec'), self._names)
            self.printed += printed.getvalue()

    def _look_at(self, block):
        if block['language'] == 'bash':
            subprocess.run(['bash', '-n', '-c', block['text']], check=True)
        else:
            compile(block['text'], '<page>', 'exec')
        for path in REPOSITORY_FILE.findall(block['text']):
            assert (self.clone / path).exists(), f'{path} is not there:\n{block["text"]}'

    def _run_commands(self, text):
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

    def _build(self, text):
        """Build the full model of a config on the meta device."""
        named = re.match(r'# (configs/\S+\.py)\n', text)
        if named:
            (self.clone / named[1]).write_text(text)
        whole = self.clone.with_name('whole')
        shutil.copytree(ROOT / 'configs', whole, dirs_exist_ok=True)
        (whole / 'of_the_page.py').write_text(text)
        check_model(Config.fromfile(whole / 'of_the_page.py'))


@pytest.mark.parametrize(
    'page',
    [pytest.param(p, marks=pytest.mark.slow) if name(p) in LONG else p for p in RUN],
    ids=name,
)
def test_blocks(page, tmp_path, coco_root, ade_root, monkeypatch):
    """Every block, in order, in a clone with small networks and data."""
    monkeypatch.syspath_prepend(ROOT)
    place = Place(tmp_path / 'clone', coco_root, ade_root)
    monkeypatch.chdir(place.clone)
    for block in blocks(page, 'bash', 'python'):
        place.run(block)
    for sign in PRINTED.get(name(page), ()):
        assert sign in place.printed, sign


def anchors(page):
    """Return the anchors of the headings of a page."""
    titles = re.findall(r'^#+ (.+)$', BLOCK.sub('', page.read_text()), re.M)
    return {re.sub(r'[^\w -]', '', title.lower()).strip().replace(' ', '-') for title in titles}


@pytest.mark.parametrize('page', PAGES, ids=name)
def test_links(page):
    """Files and headings that a page links to exist."""
    prose = re.sub(r'`[^`\n]*`', '', BLOCK.sub('', page.read_text()))
    for target in re.findall(r'\]\((?!https:)([^)\s]+)\)', prose):
        path, _, anchor = target.partition('#')
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f'{name(page)} links to {target}'
        if anchor:
            assert anchor in anchors(file), f'{name(page)} links to {target}'


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """The built pages; warnings are errors, such as those of links and anchors."""
    pytest.importorskip('mkdocs', reason='pip install -r requirements/docs.txt')
    folder = tmp_path_factory.mktemp('site')
    done = subprocess.run(
        [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(folder)],
        cwd=ROOT, env={**os.environ, 'NO_MKDOCS_2_WARNING': '1', 'PYTHONPATH': str(ROOT)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and 'WARNING' not in done.stderr, done.stderr
    return folder


def test_site(site):
    """Nothing is loaded from other sites, and images have alternative texts."""
    pages = sorted(site.glob('*.html'))
    assert len(pages) > 10
    for page in pages:
        if page.name == '404.html':  # its addresses begin at the root of the server
            continue
        text = page.read_text()
        for target in re.findall(r'<(?:img|script|link)\b[^>]*? (?:src|href)="([^"]+)"', text):
            assert (site / re.split('[?#]', target)[0]).is_file(), f'{page.name} loads {target}'
        for image in re.findall(r'<img\b[^>]*>', text):
            assert re.search(r' alt="[^"]', image), f'{page.name} has no text for {image}'


def test_the_public_face_is_in_the_reference(site):
    page = (site / 'api.html').read_text()
    for face in (mmrest, mmrest.apis):
        for public in (getattr(face, each) for each in face.__all__ if each[0] != '_'):
            assert f'id="{public.__module__}.{public.__qualname__}"' in page, public


def test_tables(site):
    """Numbers are marked, for their alignment, and configs are links to their texts."""
    page = (site / 'model_zoo.html').read_text()
    assert '<td class="number">45.57</td>' in page
    assert '<a href="configs/maskrcnn_rmt_s_3x.py.txt">' in page
    for target in re.findall(r'<a href="(configs/[^"]+)"', page):
        assert (site / target).is_file()


def test_equations_are_rendered(site):
    """Equations are MathML, without remains of their source."""
    page = (site / 'architecture.html').read_text()
    assert page.count('<math') > 10 and '$' not in re.sub(r'<(script|style).*?</\1>', '', page)


def joined(numbers):
    return ', '.join(map(str, numbers))


def test_table_of_networks():
    page = (ROOT / 'docs' / 'backbones.md').read_text()
    assert len(re.findall(r'^\| \S+ \| `\w+` \| `\w+` \| \d', page, re.M)) == 8
    for family, archs in (('ResT', rest.ARCHS), ('RMT', rmt.ARCHS)):
        for name, arch in list(archs.items())[:4]:
            row = f'| {family}-{name.title()} | `{family}` | `{name}` '
            assert f'\n{row}| {joined(arch.dims)} | {joined(arch.depths)} |\n' in page


def test_table_of_results():
    """The README's table has the numbers of the metafile."""
    known = {model['Name']: model for model in models()}

    def numbers_of(name, *metrics):
        found = reported(known[name])
        return ' / '.join(str(found[metric]) for metric in metrics if metric in found) or '-'

    page = (ROOT / 'README.md').read_text()
    rows = re.findall(r'^\| ((?:ResT|RMT)-\S+) \| (.*) \| (.*) \|$', page, re.M)
    assert len(rows) == 8
    for name, numbers, weights in rows:
        network = name.lower().replace('-', '_')
        classifier = known[f'imagenet_{network}_300e']['Metadata']
        assert numbers.split(' | ') == [
            f'{classifier["Parameters"] / 1e6:.1f}',
            f'{classifier["FLOPs"] / 1e9:.1f}',
            numbers_of(f'imagenet_{network}_300e', 'top-1'),
            numbers_of(f'maskrcnn_{network}_1x', 'box AP', 'mask AP'),
            numbers_of(f'semfpn_{network}_80k', 'mIoU'),
        ]
        assert classifier['Official Weights'] in weights


def test_ablations():
    """Every switch has a line, and every ablation network a row."""
    page = (ROOT / 'docs' / 'classification.md').read_text()
    switches = {field.name for field in dataclasses.fields(rmt.RMTArch) if field.type is bool}
    listed = set(re.findall(r'^\| `(\w+)` \| ', page, re.M))
    assert listed == switches | {'axial', 'patch_size'}
    rows = re.findall(r'^\| RMT-\S+ \| `(\w+)` \| (.+?) \| (.+?) \| (.+?) \|', page, re.M)
    archs = list(rmt.ARCHS.items())[4:]
    assert rows == [(n, joined(a.depths), joined(a.dims), joined(a.num_heads)) for n, a in archs]


def test_versions():
    readme = (ROOT / 'README.md').read_text()
    for file in ('torch', 'core', 'det', 'seg', 'cls'):
        pins = (ROOT / 'requirements' / f'{file}.txt').read_text()
        for name, version in re.findall(r'^([\w-]+)==([\w.]+)(?:; .* >= .*)?$', pins, re.M):
            assert f'{name} {version}' in readme


@pytest.mark.parametrize('page, config', [
    ('custom_data', 'own_coco'),
    ('custom_data', 'own_segmentation'),
    ('train', 'maskrcnn_rmt_l_3x_fsdp'),
])  # fmt: skip
def test_lines_of_configs(page, config):
    text = (ROOT / 'configs' / f'{config}.py').read_text()
    found = blocks(ROOT / 'docs' / f'{page}.md', 'python')
    assert any(block['text'] in text for block in found)


def test_hooks_have_the_versions_of_the_tests():
    pinned = dict(
        re.findall(r'^(\w+)==([\w.]+)', (ROOT / 'requirements' / 'tests.txt').read_text(), re.M)
    )
    hooks = (ROOT / '.pre-commit-config.yaml').read_text()
    assert set(re.findall(r'ruff==([\w.]+)', hooks)) == {pinned['ruff']}
    assert set(re.findall(r'codespell==([\w.]+)', hooks)) == {pinned['codespell']}
