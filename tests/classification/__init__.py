"""What needs mmpretrain; without it these tests are skipped."""

import pytest

pytest.importorskip('mmpretrain', reason='mmpretrain is not installed')
