"""Tests that need mmpretrain; skipped without it."""

import pytest

pytest.importorskip('mmpretrain', reason='mmpretrain is not installed')
