"""Messages in the troubleshooting tables occur; of libraries, only some are tried."""

import re

import mmdet.registry
import mmdet.utils
import pytest
import torch
from mmcv import ops

from mmrest import RMT
from mmrest.checkpoint import match
from tests.cli.test_bad_input import CASES
from tests.runs import ROOT


def building(**cfg):
    return lambda _: mmdet.registry.MODELS.build(cfg)


def loading(arch, content):
    def load(path):
        torch.save(content(), path)
        RMT(arch).load_pretrained(str(path))

    return load


IMAGE = torch.zeros(1, 3, 1, 1)
# Text in the tables of the page -> what brings it about.
TROUBLES = {
    'needs compiled mmcv, which is not installed': lambda _: ops.nms_match(torch.rand(4, 5), 0),
    'is not in the mmdet::model registry': building(type='Absent'),
    "got an unexpected keyword argument 'depth'": building(type='RMT', arch='t', depth=50),
    "got an unexpected keyword argument 'pretrained'": building(type='ResT', pretrained='x.pth'),
    'Expected more than 1 value per channel when training': lambda _: RMT('t')(IMAGE),
    'does not match the model: 0 of': lambda _: match('x', {'module.x': IMAGE}, {'x': IMAGE}),
    'it looks like': loading('s', lambda: RMT('t').state_dict()),
    'it contains a pickled': loading('t', lambda: {'model': print}),
}
OF_COMMANDS = [
    'not found; check --data-root DIR', 'must be a list of names', 'names must match exactly',
    'num_classes is 80, but', '--amp requires a GPU',
]  # fmt: skip
"""Those that test_bad_input.py brings about."""


def test_the_page_has_them():
    page = (ROOT / 'docs' / 'troubleshooting.md').read_text()
    rows = re.findall(r'^\| `(.+?)` \| ', page, re.M)
    assert {*TROUBLES, *OF_COMMANDS} <= set(rows)
    assert all(any(text in line for line in CASES.values()) for text in OF_COMMANDS)


@pytest.mark.parametrize('text', TROUBLES)
def test_troubles(text, tmp_path):
    mmdet.utils.register_all_modules()
    with pytest.raises(Exception, match=re.escape(text)):
        TROUBLES[text](tmp_path / 'x.pth')
