"""What needs mmpretrain, as `make env-cls` installs it; elsewhere these tests are skipped."""

import pytest

pytest.importorskip('mmpretrain', reason='mmpretrain is not installed: make test-cls')
