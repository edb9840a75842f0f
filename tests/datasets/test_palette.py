"""Colours of classes, and palettes that are too short."""

import pytest

from mmrest.datasets.palette import colours, fill_palette


def test_colours():
    assert colours([[1, 2, 3], [4, 5, 6]], 1) == [(1, 2, 3)]
    made = colours(None, 20)
    assert len(set(made)) == 20 and made[1:] == colours([made[0]], 20)[1:]


@pytest.mark.parametrize('palette', [[], [(1, 2, 3)], 'random', None])
def test_short_palette(palette):
    metainfo = dict(classes=('a', 'b'), palette=palette)
    fill_palette(metainfo)
    if isinstance(palette, list):
        assert len(metainfo['palette']) == 2 and metainfo['palette'][: len(palette)] == palette
        assert all(len(colour) == 3 for colour in metainfo['palette'])
    else:
        assert metainfo['palette'] == palette
