"""tools/benchmark_attention.py: a table of the memory of the attention."""

from pathlib import Path

import pytest

from tests.tools.runs import ROOT, run

TOOL = ROOT / 'tools' / 'benchmark_attention.py'


@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc/self/clear_refs').exists(), reason='measures on Linux')
def test_table(tmp_path):
    lines = run(TOOL, '--sides', '96', cwd=tmp_path).stdout.splitlines()
    rows = [line.strip('| ').split(' | ') for line in lines if line.startswith('|')][2:]
    assert len(rows) == 6
    for name, image, tokens, form, kept, peak in rows:
        assert name and image == '96 x 96' and form in ('torch', 'reference')
        assert int(tokens) in (12**2, 24**2, 6**2) and int(kept) >= 0 and int(peak) >= 0


def test_bad_input(tmp_path):
    done = run(TOOL, '--sides', '100', cwd=tmp_path, check=False)
    assert done.returncode == 2 and '100 is no multiple of 32' in done.stderr
