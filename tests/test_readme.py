"""README and pages are consistent with the repository."""

import dataclasses
import re

import pytest

from mmrest.models import rest, rmt
from mmrest.shipped import models, reported
from tests.runs import ROOT
from tests.test_docs import blocks


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
