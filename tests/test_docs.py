"""The documentation builds, its links resolve, and its commands run."""

import os
import re
import subprocess
import sys

import pytest

import mmrest.apis
from tests.documents import PAGES, Place, anchors, blocks, links, name
from tests.runs import ROOT

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

RUN = [page for page in PAGES if {'bash', 'python'} & {block.language for block in blocks(page)}]


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
    for block in blocks(page):
        if block.language in ('bash', 'python'):
            place.run(block)
    for sign in PRINTED.get(name(page), ()):
        assert sign in place.printed, sign


@pytest.mark.parametrize('page', PAGES, ids=name)
def test_links(page):
    for target in links(page):
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
