"""Inputs: names as they are passed and as they are found, images, frame rates."""

import errno
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from PIL import Image

from mmrest.errors import UsageError
from mmrest.inference.inputs import (
    Input,
    UnreadableImage,
    Video,
    check_complete,
    find_inputs,
    read_as,
    read_image,
    unique_names,
)
from mmrest.inference.outputs import Outputs, open_video


def dataset_of(**loader):
    pipeline = SimpleNamespace(transforms=[LoadImageFromFile(**loader)])
    return SimpleNamespace(pipeline=pipeline)


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def paths(*given):
    return [str(found.path) for found in find_inputs(given)]


def test_names_with_a_tilde(tmp_path, monkeypatch):
    """A file of that name comes before the home folder of a user; no user, no error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    touch(tmp_path, '~$x.jpg', '~', 'home/y.jpg')
    assert paths('~$x.jpg') == paths('~$*.jpg') == ['~$x.jpg']
    assert paths('~') == ['~'] and paths('~/y.jpg') == [str(tmp_path / 'home' / 'y.jpg')]
    for name in ('~$z.jpg', '*.png', 'https://x.org/y.jpg', '0', '-'):
        with pytest.raises(UsageError, match=r'input .* not found or empty; pass images'):
            paths(name)


def test_outputs_among_the_inputs(tmp_path, monkeypatch):
    """Folders and patterns skip what an earlier run wrote, and hidden files."""
    monkeypatch.chdir(tmp_path)
    outputs = 'in/vis/a.jpg', 'in/preds/a.png', 'in/predictions.json'
    touch(tmp_path, 'in/a.jpg', 'in/b/c.jpg', 'in/.a', 'in/.b/c', *outputs)
    own = [Path('in', name) for name in ('vis', 'preds', 'predictions.json')]
    for text in ('in', 'in/*', 'in/**/*.*'):
        found = {str(given.path) for given in find_inputs([text], own)}
        assert found == {'in/a.jpg', 'in/b/c.jpg'}
    touch(tmp_path, 'empty/.x')
    with pytest.raises(UsageError, match='input empty not found or empty'):
        paths('empty')


def test_links_to_folders(tmp_path):
    touch(tmp_path, 'far/b.jpg', 'in/a.jpg')
    (tmp_path / 'in' / 'linked').symlink_to(tmp_path / 'far')
    (tmp_path / 'far' / 'back').symlink_to(tmp_path / 'in')
    for texts in (['in'], ['in', 'in/*.jpg', 'in/linked/*.jpg']):
        found = [Path(path).name for path in paths(*(str(tmp_path / text) for text in texts))]
        assert sorted(found) == ['a.jpg', 'b.jpg']


def test_short_names():
    """Names have folders only where they differ in nothing else."""
    assert unique_names([Path('x/a.jpg'), Path('y/b.jpg')]) == ['a', 'b']


@pytest.mark.skipif(sys.platform != 'linux', reason='other systems have no such names')
def test_names_that_are_not_text(tmp_path):
    """OpenCV crashes on them."""
    path = tmp_path / os.fsdecode(b'caf\xe9.png')
    Image.new('RGB', (8, 6)).save(path)
    assert read_image(str(path)).shape == (6, 8, 3)
    path.write_text('no image')
    with pytest.raises(UnreadableImage, match='is not an image'):
        check_complete(str(path))
    with pytest.raises(UnreadableImage, match='rename the video'):
        Video(path)


@pytest.mark.parametrize('flag, size', [('color', (80, 60)), ('unchanged', (60, 80))])
def test_orientation_of_a_pipeline(tmp_path, flag, size):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (80, 60)).save(tmp_path / 'x.jpg', exif=exif)
    assert read_as(tmp_path / 'x.jpg', dataset_of(color_type=flag)).shape == (*size, 3)


def test_reflectances(tmp_path):
    """Files that Pillow cannot read, with floats of 0 to 1."""
    path = str(tmp_path / 'x.tif')
    cv2.imwrite(path, np.random.default_rng(0).random((6, 8, 3)).astype(np.float32))
    check_complete(path)
    image = read_as(path, dataset_of(color_type='unchanged'))
    assert image.shape == (6, 8, 3) and image.std() > 50


def test_files_of_a_loader_of_ones_own(tmp_path):
    np.save(tmp_path / 'x.npy', np.full((6, 8, 5), 9, np.uint8))

    def load(results):
        assert results['img_path2']  # of change detection
        return dict(img=np.load(results['img_path']))

    dataset = SimpleNamespace(pipeline=SimpleNamespace(transforms=[load]))
    assert read_as(tmp_path / 'x.npy', dataset).shape == (6, 8, 3)


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    touch(tmp_path, 'a.jpg', 'locked/b.jpg')

    def scandir(path, opened=os.scandir):
        if str(path).endswith('locked'):
            raise PermissionError(errno.EACCES, 'Permission denied', str(path))
        return opened(path)

    monkeypatch.setattr(os, 'scandir', scandir)
    with pytest.raises(UsageError, match='locked cannot be read: Permission denied'):
        paths(str(tmp_path))


@pytest.mark.parametrize('names', [('x.jpg', 'a.frames/0', 'x.mp4', 'a'),
                                   ('x.jpg', 'b', 'x.jpg', 'b.png/c')])  # fmt: skip
def test_outputs_of_two_inputs(tmp_path, names):
    """A label map cannot be in a folder of the name of another one."""
    inputs = [Input(Path(path), name) for path, name in zip(names[::2], names[1::2])]
    with pytest.raises(UsageError, match=r'preds/\S+ is a folder; choose another'):
        Outputs(tmp_path).check(inputs, label_maps=True, overwrite=True)


@pytest.mark.parametrize('rate', [0.01, 29.97, 66.667, 239.76])
def test_rates_of_videos_that_can_be_written(tmp_path, rate):
    writer = open_video(tmp_path / 'x.mp4', rate, (64, 48))
    writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    assert Video(tmp_path / 'x.mp4').rate == pytest.approx(rate, abs=0.01)


@pytest.mark.parametrize('noted, rate', [(10, 10), (240, 240), (1000, 25)])
def test_frame_rates(tmp_path, noted, rate):
    """An impossible frame rate is ignored."""
    path = tmp_path / 'x.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), noted, (80, 60))
    writer.write(np.zeros((60, 80, 3), np.uint8))
    writer.release()
    assert Video(path).rate == rate
