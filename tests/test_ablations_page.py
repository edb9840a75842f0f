"""docs/ablations.md lists what there is, and what it shows runs."""

import dataclasses
import re
import shutil

import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from mmrest.models.rmt import ARCHS, RMTArch
from tests.tools.runs import ROOT

PAGE = (ROOT / 'docs' / 'ablations.md').read_text()


def test_every_switch_has_a_line():
    listed = set(re.findall(r'^\| `(\w+)` \| ', PAGE, re.M))
    switches = {field.name for field in dataclasses.fields(RMTArch) if field.type is bool}
    assert listed == switches | {'axial', 'patch_size'}


def test_table_of_networks():
    rows = re.findall(
        r'^\| RMT-\S+ \| `(\w+)` \| ([\d, ]+) \| ([\d, ]+) \| ([\d, ]+) \|', PAGE, re.M
    )
    assert [row[0] for row in rows] == list(ARCHS)[4:]
    for name, *numbers in rows:
        arch = ARCHS[name]
        found = [tuple(map(int, each.split(', '))) for each in numbers]
        assert found == [arch.depths, arch.dims, arch.num_heads]


def test_blocks(tmp_path, capsys):
    switched, config, backbone = re.findall(r'^```python\n(.*?)^```', PAGE, re.M | re.S)
    exec(compile(switched, 'ablations.md', 'exec'), {})
    whole, without, full = map(int, capsys.readouterr().out.split())
    assert whole == full and without == whole - 10 * sum(
        depth * dim for depth, dim in zip(ARCHS['t'].depths, ARCHS['t'].dims)
    )
    exec(compile(backbone, 'ablations.md', 'exec'), {})
    assert capsys.readouterr().out == '(384,) (16,) (1, 384, 13, 21)\n'
    shutil.copytree(ROOT / 'configs', tmp_path / 'configs')
    (tmp_path / 'configs' / 'mine.py').write_text(config)
    cfg = Config.fromfile(tmp_path / 'configs' / 'mine.py')
    with torch.device('meta'):
        arch = MODELS.build(cfg.model.backbone).arch
    assert arch == dataclasses.replace(ARCHS['s'], decay=False)


def test_configs():
    for name in re.findall(r'configs/\w+\.py', PAGE):
        assert (ROOT / name).is_file()
