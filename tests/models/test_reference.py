"""The eight networks match the reference values of the official ones."""

import pytest
import torch

from mmrest import RMT, ResT
from tests.reference import FEATURE_MAPS, KEYS, TOLERANCE, fill, image, samples

CLASSES = {'rmt': RMT, 'rest': ResT}


def entry_name(entry):
    size = 'x'.join(map(str, entry['image']))
    return f'{entry["arch"]}_{entry["variant"]}-{size}' + '-path' * entry['norm_in_path']


@pytest.mark.parametrize('name', KEYS)
def test_names_and_shapes(name):
    family, arch = name.split('_')
    with torch.device('meta'):
        state = CLASSES[family](arch).state_dict()
    shapes = {n: list(t.shape) for n, t in state.items() if 'num_batches_tracked' not in n}
    assert shapes == KEYS[name]


@pytest.mark.parametrize('entry', FEATURE_MAPS, ids=entry_name)
def test_feature_maps(entry):
    family, arch = entry['arch'], entry['variant']
    network = CLASSES[family](arch, **({'norm_in_path': True} if entry['norm_in_path'] else {}))
    state = fill(KEYS[f'{family}_{arch}'])
    result = network.load_state_dict(state, strict=False)
    assert not result.unexpected_keys
    assert all('num_batches_tracked' in name for name in result.missing_keys)
    assert_maps(network, entry)


def assert_maps(network, entry):
    """Check that the feature maps of `network` match an entry of the reference."""
    batch, _, height, width = entry['image']
    with torch.no_grad():
        maps = network.eval()(image(batch, height, width, entry['seed']))
    assert len(maps) == len(entry['levels'])
    for found, level in zip(maps, entry['levels']):
        assert list(found.shape) == level['shape']
        tolerance = TOLERANCE[entry['arch']] * level['std']
        expected = torch.tensor(level['samples'])
        torch.testing.assert_close(samples(found), expected, rtol=0, atol=tolerance)
        assert float(found.mean()) == pytest.approx(level['mean'], abs=tolerance)
        assert float(found.std()) == pytest.approx(level['std'], abs=tolerance)
