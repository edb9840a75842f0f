"""mmrest infer: the boxes and label maps of mmrest test, in files that other software reads."""

import json
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO

from mmrest.apis import Inferencer, inference
from mmrest.checkpoint import CheckpointError, lock_folder
from mmrest.inference.inferencer import Prediction
from mmrest.inference.outputs import coco_file
from tests.runs import DETECTOR, ROOT, SMALL_SEGMENTOR, lay_out, run_here, without_default_scope


@pytest.fixture(scope='module')
def folder(tmp_path_factory, coco_root, ade_root):
    folder = lay_out(tmp_path_factory.mktemp('infer'), det=DETECTOR, seg=SMALL_SEGMENTOR)
    (folder / 'photos').symlink_to(coco_root / 'val2017')
    (folder / 'streets').symlink_to(ade_root / 'images' / 'validation')
    return folder


@pytest.fixture(autouse=True)
def _in_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)


def infer(name, *args):
    """Run mmrest infer with a config and its weights; return its status."""
    return run_here('infer', f'{name}.py', f'{name}.pth', *args)


def results(path):
    """Return the content of a results file, which pycocotools can read."""
    read = COCO(str(path))
    content = json.loads(path.read_text())
    assert len(read.anns) == len(content['annotations'])
    assert len(read.imgs) == len(content['images'])
    return content


def test_detector_matches_mmrest_test(folder, tmp_path, coco_root):
    """The command, Python and tools/test.py give the same boxes, scores, labels and masks."""
    dump = tmp_path / 'found.pkl'
    (tmp_path / 'det.py').write_text(without_default_scope(folder / 'det.py', coco_root))
    assert not run_here(
        'test', tmp_path / 'det.py', 'det.pth', '--data-root', coco_root, '--out', dump,
        '--work-dir', tmp_path, '--cfg-options', 'test_dataloader.batch_size=2',
    )  # fmt: skip
    options = ('--batch-size', 2, '--no-save-vis', '--device', 'cpu')
    assert not infer('det', 'photos', '--out-dir', tmp_path / 'out', *options)
    content = results(tmp_path / 'out' / 'predictions.json')
    tested = {entry['img_path'].split('/')[-1]: entry for entry in pickle.loads(dump.read_bytes())}
    paths = [image['file_name'] for image in content['images']]
    python = inference('det.py', 'det.pth', 'cpu')(paths, batch_size=2)
    assert len(tested) == len(python) == 4
    for image, sample in zip(content['images'], python):
        wanted = tested[image['file_name'].split('/')[-1]]['pred_instances']
        found = sample.pred_instances
        assert all(torch.equal(found[key], wanted[key]) for key in ('bboxes', 'scores', 'labels'))
        listed = [a for a in content['annotations'] if a['image_id'] == image['id']]
        assert len(listed) == len(wanted['bboxes']) == 20
        assert (image['width'], image['height']) == (80, 60)
        for annotation, box, score, label, run_length in zip(
            listed, *(wanted[key] for key in ('bboxes', 'scores', 'labels', 'masks'))
        ):
            x, y, width, height = annotation['bbox']
            assert [x, y, x + width, y + height] == box.tolist()
            assert annotation['score'] == score.item()
            assert annotation['category_id'] == label.item() + 1
            assert annotation['segmentation']['counts'].encode() == run_length['counts']
            assert annotation['area'] == run_lengths.area(run_length)


def test_segmentor_matches_mmrest_test(tmp_path, ade_root):
    """The command, Python and tools/test.py give the same label maps, in ADE20K's values."""
    assert not run_here(
        'test', 'seg.py', 'seg.pth', '--data-root', ade_root, '--out', tmp_path / 'maps',
        '--work-dir', tmp_path, '--cfg-options', 'test_dataloader.batch_size=2',
    )  # fmt: skip
    options = ('--batch-size', 2, '--no-save-vis', '--device', 'cpu')
    assert not infer('seg', 'streets', '--out-dir', tmp_path / 'out', *options)
    content = results(tmp_path / 'out' / 'predictions.json')
    assert content['categories'][0] == dict(id=1, name='wall', color=[120, 120, 120])
    paths = sorted((tmp_path / 'maps').iterdir())
    python = inference('seg.py', 'seg.pth', 'cpu')(
        [f'streets/{path.stem}.jpg' for path in paths], 2
    )
    assert [i['label_map'] for i in content['images']] == [f'preds/{p.name}' for p in paths]
    for path, sample in zip(paths, python):
        found = cv2.imread(str(tmp_path / 'out' / 'preds' / path.name), cv2.IMREAD_UNCHANGED)
        assert (found == cv2.imread(str(path), cv2.IMREAD_UNCHANGED)).all()
        assert (found - 1 == sample.pred_sem_seg.data[0].numpy()).all()
        assert len(np.unique(found)) > 1


def video(path, frames, code):
    """Write a video of moving frames; return the frames as read."""
    rng = np.random.default_rng(0)
    first = rng.integers(0, 255, (60, 80, 3), np.uint8)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), 10.0, (80, 60))
    for number in range(frames):
        writer.write(np.roll(first, 3 * number, axis=1))
    writer.release()
    return frames_of(path)


def frames_of(path):
    capture = cv2.VideoCapture(str(path))
    return [frame for is_read, frame in iter(capture.read, (False, None))]


@pytest.mark.parametrize('name, suffix, code', [('det', 'mp4', 'mp4v'), ('seg', 'avi', 'MJPG')])
def test_video(tmp_path, name, suffix, code):
    clip, out = tmp_path / f'clip.{suffix}', tmp_path / 'out'
    frames = video(clip, 5, code)
    options = ('--batch-size', 2, '--score-thr', 0, '--device', 'cpu')
    assert not infer(name, clip, '--out-dir', out, *options)
    content = results(out / 'predictions.json')
    assert [image['frame'] for image in content['images']] == [0, 1, 2, 3, 4]
    assert {image['file_name'] for image in content['images']} == {str(clip)}
    drawn = frames_of(out / 'vis' / 'clip.mp4')
    assert len(drawn) == 5 and drawn[0].shape == (480, 640, 3)
    assert cv2.VideoCapture(str(out / 'vis' / 'clip.mp4')).get(cv2.CAP_PROP_FPS) == 10
    python = inference(f'{name}.py', f'{name}.pth', 'cpu')(frames, 2)[3]
    if name == 'det':
        scores = [a['score'] for a in content['annotations'] if a['image_id'] == 4]
        assert scores == python.pred_instances.scores.tolist()
    else:
        found = cv2.imread(str(out / content['images'][3]['label_map']), cv2.IMREAD_UNCHANGED)
        assert (found - 1 == python.pred_sem_seg.data[0].numpy()).all()


def test_a_shorter_video(tmp_path, monkeypatch):
    """No frame of the earlier one remains, and a full disk is an error."""
    clip, options = tmp_path / 'clip.avi', ('--out-dir', tmp_path / 'out', '--overwrite')
    for length in (4, 2):
        video(clip, length, 'MJPG')
        assert not infer('seg', clip, *options)
    assert len(list((tmp_path / 'out' / 'preds' / 'clip.frames').iterdir())) == 2
    full = SimpleNamespace(write=lambda frame: None, release=lambda: None)
    monkeypatch.setattr('mmrest.cli.infer.open_video', lambda *_: full)
    (tmp_path / 'out' / 'vis' / 'clip.mp4').unlink()
    assert 'clip.mp4 could not be written in full' in infer('seg', clip, *options)


def test_a_video_that_ends_early(tmp_path, capsys):
    clip = tmp_path / 'clip.avi'
    video(clip, 24, 'MJPG')
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    assert not infer('seg', clip, '--out-dir', tmp_path / 'out')
    assert re.search(r'how many it has:\n\S+clip\.avi: \d+ of 24\n', capsys.readouterr().out)


def test_unreadable_inputs_are_skipped(tmp_path, coco_root, capsys):
    """Inputs in nested folders, with duplicate names."""
    given = tmp_path / 'given'
    for below in ('a', 'b/deep'):
        shutil.copytree(coco_root / 'val2017', given / below)
    image = given / 'a' / '000000000002.jpg'
    image.write_bytes(image.read_bytes()[:900])
    (given / 'b' / 'notes.txt').write_text('no image')
    (given / 'b' / '.hidden').write_text('not looked at')
    (given / 'clip.mp4').write_text('no video')
    shutil.copy(given / 'a' / '000000000001.jpg', given / 'a' / '000000000001.png')
    inputs = (given / 'a', f'{given}/b/*', given / 'clip.mp4', given / 'b/deep/000000000003.jpg')
    assert infer('det', *inputs, '--out-dir', tmp_path / 'out', '--score-thr', 0) == 3
    summary = capsys.readouterr().out.split('3 of 11 inputs were skipped:\n')[1]
    for fault in (
        '000000000002.jpg cannot be read: OSError: image file is truncated',
        'given/b/notes.txt is not an image',
        'given/clip.mp4 is not a video',
    ):
        assert fault in summary
    content = results(tmp_path / 'out' / 'predictions.json')
    vis = tmp_path / 'out' / 'vis'
    pictures = {path.relative_to(vis) for path in vis.rglob('*.jpg')}
    assert len(content['images']) == len(pictures) == 8
    assert {str(path.parent) for path in pictures} == {'a', 'b/deep'}
    assert cv2.imread(str(vis / 'a' / '000000000001.jpg.jpg')).shape == (480, 640, 3)


def test_pages(tmp_path, capsys):
    """Only the first one is used, and the output says so."""
    pages = [np.zeros((48, 64, 3), np.uint8)] * 2
    cv2.imwritemulti(str(tmp_path / 'two.tif'), pages)
    cv2.imwrite(str(tmp_path / 'one.tif'), pages[0])
    assert not infer('det', tmp_path / '*.tif', '--out-dir', tmp_path / 'out')
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == [
        'only the first frame or page was used; convert to a video or images:',
        str(tmp_path / 'two.tif'),
    ]


def test_nothing_is_lost(tmp_path):
    """Earlier outputs are overwritten only with --overwrite, inputs never."""
    given = ('photos/000000000001.jpg', '--out-dir', tmp_path)
    (tmp_path / 'preds').mkdir()
    (tmp_path / 'preds' / '000000000001.png').write_text('a detector writes no label maps')
    assert not infer('det', *given)
    (tmp_path / 'predictions.json').write_text('of the user')
    assert 'predictions.json exists; choose' in infer('det', *given, '--no-save-vis')
    assert (tmp_path / 'predictions.json').read_text() == 'of the user'
    assert not infer('det', *given, '--overwrite')
    assert len(results(tmp_path / 'predictions.json')['images']) == 1
    picture = tmp_path / 'vis' / '000000000001.jpg'
    for option in ([], ['--overwrite']):
        message = infer('det', picture, '--out-dir', tmp_path, *option)
        assert 'is an input and would be overwritten; choose another --out-dir' in message
    picture.unlink()
    picture.mkdir()
    assert 'is a folder; choose' in infer('det', *given, '--overwrite')


def test_no_readable_input(tmp_path):
    """Old predictions do not remain."""
    video(tmp_path / 'empty.avi', 0, 'MJPG')
    (tmp_path / 'torn.jpg').write_text('no image')
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'predictions.json').write_text('old')
    inputs = (tmp_path / 'torn.jpg', tmp_path / 'empty.avi')
    assert infer('det', *inputs, '--out-dir', tmp_path / 'out', '--overwrite') == 3
    content = results(tmp_path / 'out' / 'predictions.json')
    assert content['images'] == [] and len(content['categories']) == 3


def test_out_dir_as_input(tmp_path, coco_root):
    """A second run skips the outputs of the first."""
    shutil.copytree(coco_root / 'val2017', tmp_path, dirs_exist_ok=True)
    for option in ([], ['--overwrite']):
        assert not infer('det', tmp_path, '--out-dir', tmp_path, *option)
        assert len(results(tmp_path / 'predictions.json')['images']) == 4


def test_predictions_of_another_kind(tmp_path, monkeypatch):
    sample = DetDataSample(pred_panoptic_seg=PixelData(), gt_instances=InstanceData())
    found = Prediction('photos/000000000001.jpg', np.zeros((60, 80, 3), np.uint8), sample)
    monkeypatch.setattr(Inferencer, 'stream', lambda *args: iter([found]))
    message = infer('det', 'photos', '--out-dir', tmp_path)
    assert 'predicts pred_panoptic_seg, not boxes or label maps; call' in message
    assert [path.name for path in tmp_path.rglob('*.*')] == ['.out-dir.lock']


def test_a_signal_while_the_file_is_written(tmp_path, monkeypatch):
    """The file is written all the same."""
    path, copy = tmp_path / 'x.json', shutil.copyfileobj

    def interrupted(*_):
        monkeypatch.setattr(shutil, 'copyfileobj', copy)
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, 'copyfileobj', interrupted)
    with pytest.raises(KeyboardInterrupt), coco_file(path, []) as add:
        add(dict(file_name='x.jpg'), DetDataSample())
    assert results(path)['images'] == [dict(id=1, file_name='x.jpg')]


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted(folder, tmp_path, number):
    """Results until Ctrl-C, a termination or the end of the terminal are kept."""
    video(tmp_path / 'long.avi', 2000, 'MJPG')
    process = subprocess.Popen(
        [sys.executable, ROOT / 'tools' / 'infer.py', 'det.py', 'det.pth', tmp_path / 'long.avi',
         '--out-dir', tmp_path / 'out', '--score-thr', '0'],
        cwd=folder, stdout=subprocess.PIPE, text=True,
        # Shells have what they start in the background ignore it.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )  # fmt: skip
    drawn = tmp_path / 'out' / 'vis' / 'long.mp4'
    while process.poll() is None and not (drawn.is_file() and drawn.stat().st_size > 10**5):
        time.sleep(0.1)
    fault = ''
    try:
        lock_folder(tmp_path / 'out', '--out-dir')
    except CheckpointError as error:
        fault = str(error)
    process.send_signal(number)
    output = process.communicate()[0]
    assert 'another run writes to' in fault and 'choose another --out-dir' in fault
    assert process.returncode == -signal.SIGINT and 'interrupted; ' in output
    done = len(results(tmp_path / 'out' / 'predictions.json')['images'])
    assert 0 < done < 2000 and 0 <= len(frames_of(drawn)) - done <= 2  # drawn beforehand
