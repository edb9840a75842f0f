"""Memory of the attention alone."""

import pytest
from mmrest.apis.attention_memory import ATTENTIONS, attention_memory

EMSA, *OTHERS = ATTENTIONS


@pytest.mark.parametrize(
    'name', [EMSA, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
)
def test_maps_are_kept_by_the_plain_form_alone(name):
    """The peak of so small an image is within the noise of the process."""
    attention, side = ATTENTIONS[name], 256
    maps = attention.map_elements(side) * 4 / 2**20
    plain = attention_memory(attention, side, 'reference')
    lean = attention_memory(attention, side, 'torch')
    assert plain.kept >= maps > 0 and lean.kept > 0 and plain.peak > maps
    assert lean.kept <= plain.kept - maps


def test_numbers_of_elements():
    emsa, axial, full = ATTENTIONS.values()
    assert [each.tokens(128) for each in (emsa, axial, full)] == [16**2, 32**2, 8**2]
    assert emsa.map_elements(128) == 2 * 16**2 * 4**2
    assert axial.map_elements(128) == 4 * 32**3
    assert full.map_elements(128) == 8 * 8**4
