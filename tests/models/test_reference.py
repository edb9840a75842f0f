"""The eight networks match the reference values of the official ones."""

import pytest
import torch

from tests.models.networks import official
from tests.reference import FEATURE_MAPS, KEYS, assert_official, fill, image


def entry_name(entry):
    size = 'x'.join(map(str, entry['image']))
    return f'{entry["arch"]}_{entry["variant"]}-{size}' + '-path' * entry['norm_in_path']


@pytest.mark.parametrize('name', KEYS)
def test_names_and_shapes(name):
    with torch.device('meta'):
        state = official(name).state_dict()
    shapes = {n: list(t.shape) for n, t in state.items() if 'num_batches_tracked' not in n}
    assert shapes == KEYS[name]


@pytest.mark.parametrize('entry', FEATURE_MAPS, ids=entry_name)
def test_feature_maps(entry):
    name = f'{entry["arch"]}_{entry["variant"]}'
    network = official(name, norm_in_path=entry['norm_in_path'])
    result = network.load_state_dict(fill(KEYS[name]), strict=False)
    assert not result.unexpected_keys
    assert all('num_batches_tracked' in name for name in result.missing_keys)
    batch, _, height, width = entry['image']
    with torch.no_grad():
        maps = network.eval()(image(batch, height, width, entry['seed']))
    assert len(maps) == len(entry['levels'])
    for found, level in zip(maps, entry['levels']):
        assert list(found.shape) == level['shape']
        assert_official(found, level, entry['arch'])
