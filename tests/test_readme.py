"""The README says what the rest of the repository says."""

import re
import textwrap

from mmrest.models import rest, rmt
from tests.tools.runs import ROOT

README = (ROOT / 'README.md').read_text()


def test_table_of_networks():
    rows = re.findall(
        r'^\| (\S+) \| `(\w+)` \| `(\w+)` \| ([\d, ]+) \| ([\d, ]+) \|$', README, re.M
    )
    archs = {'ResT': rest.ARCHS, 'RMT': rmt.ARCHS}
    assert len(rows) == 8
    for name, family, arch, dims, depths in rows:
        fields = archs[family][arch]
        assert name.lower() == f'{family}-{arch}'.lower()
        assert tuple(map(int, dims.split(', '))) == fields.dims
        assert tuple(map(int, depths.split(', '))) == fields.depths


def test_versions():
    for file in ('torch', 'mminstall'):
        for name, version in re.findall(
            r'^(\w+)==(\S+)$', (ROOT / 'requirements' / f'{file}.txt').read_text(), re.M
        ):
            assert f'{name} {version}' in README


def test_python_blocks_run(capsys):
    blocks = re.findall(r'^```python\n(.*?)^```', README, re.M | re.S)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(textwrap.dedent(block), 'README.md', 'exec'), {})
    assert capsys.readouterr().out.startswith('(128, 256, 512) (8, 16, 32) [(1, 128, 25, 42)')
