"""Commands that inspect a run before it starts: config and browse."""

import cv2
import pytest
from mmengine.config import Config

from tests.runs import DETECTOR, ROOT, SEGMENTOR, run


def test_print_config(tmp_path):
    given = (ROOT / 'configs' / 'upernet_rmt_t_160k.py', '--data-root', '/data')
    options = ('--cfg-options', 'train_cfg.max_iters=7')
    printed = run(ROOT / 'tools' / 'print_config.py', *given, *options, cwd=tmp_path).stdout
    assert "data_root='/data'" in printed and 'max_iters=7' in printed
    path = tmp_path / 'new' / 'whole.py'
    run(ROOT / 'tools' / 'print_config.py', *given, *options, '--save-path', path, cwd=tmp_path)
    assert Config.fromfile(path).pretty_text == Config.fromstring(printed, '.py').pretty_text


@pytest.mark.parametrize('text, root, phase', [
    (DETECTOR, 'coco_root', 'train'), (SEGMENTOR, 'ade_root', 'train'),
    (SEGMENTOR, 'ade_root', 'val'),  # whose images are resized, but not the label maps
])  # fmt: skip
def test_browse_dataset(tmp_path, request, text, root, phase):
    """The requested number of images is drawn, with coloured annotations."""
    (tmp_path / 'tiny.py').write_text(text)
    run(
        ROOT / 'tools' / 'browse_dataset.py', 'tiny.py', '--not-show', '--output-dir', 'drawn',
        '--number', '2', '--phase', phase, '--data-root', request.getfixturevalue(root),
        cwd=tmp_path,
    )  # fmt: skip
    paths = sorted((tmp_path / 'drawn').iterdir())
    assert [path.name[:7] for path in paths] == ['000000_', '000001_']
    for path in paths:
        image = cv2.imread(str(path))
        assert max(image.shape[:2]) == 640  # enlarged, so that labels can be read
        assert (image.max(-1).astype(int) - image.min(-1)).max() > 60


@pytest.mark.parametrize('arguments, message', [
    (['--not-show'], '--not-show leaves nothing to do; pass --output-dir DIR'),
    ([], 'no display (DISPLAY is not set)'),
    (['--not-show', '--output-dir', 'x'], 'not found; pass --data-root DIR'),
])  # fmt: skip
def test_nothing_to_draw_on(tmp_path, arguments, message):
    done = run(
        ROOT / 'tools' / 'browse_dataset.py', ROOT / 'configs' / 'maskrcnn_rmt_t_1x.py',
        *arguments, cwd=tmp_path, check=False, DISPLAY='',
    )  # fmt: skip
    assert done.returncode != 0 and message in done.stderr and 'Traceback' not in done.stderr
