"""Commands that inspect a run before it starts: config and browse."""

import cv2
import pytest
from mmengine.config import Config

from tests.runs import DETECTOR, SEGMENTOR, run_here


def test_print_config(tmp_path, capsys):
    options = ('--data-root', '/data', '--cfg-options', 'train_cfg.max_iters=7')
    assert not run_here('print_config', 'upernet_rmt_t_160k', *options)
    printed = capsys.readouterr().out
    assert "data_root='/data'" in printed and 'max_iters=7' in printed
    path = tmp_path / 'new' / 'whole.py'
    assert not run_here('print_config', 'upernet_rmt_t_160k', *options, '--save-path', path)
    assert Config.fromfile(path).pretty_text == Config.fromstring(printed, '.py').pretty_text


@pytest.mark.parametrize('text, root, phase', [
    (DETECTOR, 'coco_root', 'train'), (SEGMENTOR, 'ade_root', 'train'),
    (SEGMENTOR, 'ade_root', 'val'),  # whose images are resized, but not the label maps
])  # fmt: skip
def test_browse_dataset(tmp_path, request, text, root, phase):
    """The requested number of images is drawn, with coloured annotations."""
    (tmp_path / 'tiny.py').write_text(text)
    options = ('--data-root', request.getfixturevalue(root), '--phase', phase, '--number', 2)
    given = (tmp_path / 'tiny.py', '--not-show', '--output-dir', tmp_path / 'drawn', *options)
    assert not run_here('browse_dataset', *given)
    paths = sorted((tmp_path / 'drawn').iterdir())
    assert [path.name[:7] for path in paths] == ['000000_', '000001_']
    for path in paths:
        image = cv2.imread(str(path))
        assert max(image.shape[:2]) == 640  # enlarged, so that labels can be read
        assert (image.max(-1).astype(int) - image.min(-1)).max() > 60


def test_browse_padded_images(tmp_path, coco_root):
    """Boxes and image have the size of the file, without the padding."""
    pad = dict(type='Pad', size=(200, 200), pad_val=dict(img=0))
    text = f"{DETECTOR}\nval_dataloader['dataset']['pipeline'].insert(-1, {pad})\n"
    drawn = []
    for name, config in (('plain', DETECTOR), ('padded', text)):
        (tmp_path / f'{name}.py').write_text(config)
        options = ('--data-root', coco_root, '--phase', 'val', '--number', 1)
        given = (tmp_path / f'{name}.py', '--not-show', '--output-dir', tmp_path / name, *options)
        assert not run_here('browse_dataset', *given)
        (path,) = (tmp_path / name).iterdir()
        drawn.append(cv2.imread(str(path)).astype(int))
    assert abs(drawn[0] - drawn[1]).mean() < 2
