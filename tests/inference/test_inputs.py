"""What inference looks at: names as they are given and as they are found."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from mmrest.engine.errors import UsageError
from mmrest.inference.inputs import Video, find_inputs


def paths(*given):
    return [str(found.path) for found in find_inputs(given, Path('outputs'))]


def test_names_with_a_tilde(tmp_path, monkeypatch):
    """A file of that name comes before the home folder of a user; no user, no error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    for name in ('~$x.jpg', '~', 'home/y.jpg'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert paths('~$x.jpg') == paths('~$*.jpg') == ['~$x.jpg']
    assert paths('~') == ['~'] and paths('~/y.jpg') == [str(tmp_path / 'home' / 'y.jpg')]
    with pytest.raises(UsageError, match=r'input ~\$z.jpg does not exist'):
        paths('~$z.jpg')


@pytest.mark.parametrize('noted, rate', [(10, 10), (240, 240), (1000, 25)])
def test_rate(tmp_path, noted, rate):
    """One that no camera has is that of a clock."""
    path = tmp_path / 'x.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), noted, (80, 60))
    writer.write(np.zeros((60, 80, 3), np.uint8))
    writer.release()
    assert Video(path).rate == rate


def test_outputs_among_the_inputs(tmp_path, monkeypatch):
    """Where a run wrote into the folder that it reads, the next one reads the same as it."""
    monkeypatch.chdir(tmp_path)
    for name in (
        'in/a.jpg',
        'in/b/c.jpg',
        'in/vis/a.jpg',
        'in/preds/a.png',
        'in/predictions.json',
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    own = [Path('in', name) for name in ('vis', 'preds', 'predictions.json')]
    for text in ('in', 'in/*', 'in/**/*.*'):
        found = {str(given.path) for given in find_inputs([text], Path('in'), own)}
        assert found == {'in/a.jpg', 'in/b/c.jpg'}
    with pytest.raises(UsageError, match='holds no file'):
        find_inputs(['.'], Path('in'), own)
