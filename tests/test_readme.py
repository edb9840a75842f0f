"""The README and the pages say what the rest of the repository says."""

import dataclasses
import re

import pytest

from mmrest.models import rest, rmt
from tests.documents import blocks
from tests.runs import ROOT


@pytest.mark.parametrize('page', ['README.md', 'docs/index.md'])
def test_table_of_networks(page):
    rows = re.findall(
        r'^\| (\S+) \| `(\w+)` \| `(\w+)` \| ([\d, ]+) \| ([\d, ]+) \|$',
        (ROOT / page).read_text(),
        re.M,
    )
    archs = {'ResT': rest.ARCHS, 'RMT': rmt.ARCHS}
    assert len(rows) == 8
    for name, family, arch, dims, depths in rows:
        fields = archs[family][arch]
        assert name.lower() == f'{family}-{arch}'.lower()
        assert tuple(map(int, dims.split(', '))) == fields.dims
        assert tuple(map(int, depths.split(', '))) == fields.depths


def test_ablations():
    """Every switch has a line, and every ablation network a row."""
    page = (ROOT / 'docs' / 'ablations.md').read_text()
    switches = {field.name for field in dataclasses.fields(rmt.RMTArch) if field.type is bool}
    listed = set(re.findall(r'^\| `(\w+)` \| ', page, re.M))
    assert listed == switches | {'axial', 'patch_size'}
    numbers = r'([\d, ]+) \| ([\d, ]+) \| ([\d, ]+)'
    rows = re.findall(rf'^\| RMT-\S+ \| `(\w+)` \| {numbers} \|', page, re.M)
    assert [row[0] for row in rows] == list(rmt.ARCHS)[4:]
    for name, *texts in rows:
        arch = rmt.ARCHS[name]
        found = [tuple(map(int, text.split(', '))) for text in texts]
        assert found == [arch.depths, arch.dims, arch.num_heads]


def test_versions():
    readme = (ROOT / 'README.md').read_text()
    for file in ('torch', 'core', 'det', 'seg', 'cls'):
        pins = (ROOT / 'requirements' / f'{file}.txt').read_text()
        for name, version in re.findall(r'^([\w-]+)==([\w.]+)(?:; .* >= .*)?$', pins, re.M):
            assert f'{name} {version}' in readme


@pytest.mark.parametrize(
    'page, config',
    [
        ('own_data_detection', 'own_coco'),
        ('own_data_segmentation', 'own_segmentation'),
        ('distributed', 'maskrcnn_rmt_l_3x_fsdp'),
    ],
)
def test_lines_of_configs(page, config):
    shown = next(b.text for b in blocks(ROOT / 'docs' / f'{page}.md') if b.language == 'python')
    assert shown in (ROOT / 'configs' / f'{config}.py').read_text()


def test_hooks_have_the_versions_of_the_tests():
    pinned = dict(
        re.findall(r'^(\w+)==([\w.]+)', (ROOT / 'requirements' / 'tests.txt').read_text(), re.M)
    )
    hooks = (ROOT / '.pre-commit-config.yaml').read_text()
    assert set(re.findall(r'ruff==([\w.]+)', hooks)) == {pinned['ruff']}
    assert set(re.findall(r'codespell==([\w.]+)', hooks)) == {pinned['codespell']}
