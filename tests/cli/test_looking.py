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
    assert 'is an input' in run_here('print_config', path, '--save-path', path)


def browsed(folder, text, root, phase, number=2):
    """Return the images that browse draws for a config."""
    folder.mkdir(exist_ok=True)
    (folder / 'tiny.py').write_text(text)
    options = ('--data-root', root, '--phase', phase, '--number', number)
    given = (folder / 'tiny.py', '--not-show', '--output-dir', folder / 'drawn', *options)
    assert not run_here('browse_dataset', *given)
    paths = sorted((folder / 'drawn').iterdir())
    assert [path.name[:7] for path in paths] == [f'00000{n}_' for n in range(number)]
    return [cv2.imread(str(path)).astype(int) for path in paths]


@pytest.mark.parametrize('text, root, phase', [
    (DETECTOR, 'coco_root', 'train'), (SEGMENTOR, 'ade_root', 'train'),
    (SEGMENTOR, 'ade_root', 'val'),  # whose images are resized, but not the label maps
])  # fmt: skip
def test_browse_dataset(tmp_path, request, text, root, phase):
    """The requested number of images is drawn, with coloured annotations."""
    for image in browsed(tmp_path, text, request.getfixturevalue(root), phase):
        assert max(image.shape[:2]) == 640  # enlarged, so that labels can be read
        assert (image.max(-1) - image.min(-1)).max() > 60


def test_browse_branches(tmp_path, coco_root):
    """Views of a teacher and a student are refused."""
    branches = dict(type='MultiBranch', branch_field=['sup'], sup=dict(type='PackDetInputs'))
    text = f"{DETECTOR}\ntrain_dataloader['dataset']['pipeline'][-1] = {branches}\n"
    (tmp_path / 'tiny.py').write_text(text)
    options = ('--data-root', coco_root, '--output-dir', tmp_path / 'drawn', '--not-show')
    assert 'packs several views' in run_here('browse_dataset', tmp_path / 'tiny.py', *options)


def test_browse_padded_images(tmp_path, coco_root):
    """Boxes and image have the size of the file, without the padding."""
    pad = dict(type='Pad', size=(200, 200), pad_val=dict(img=0))
    text = f"{DETECTOR}\nval_dataloader['dataset']['pipeline'].insert(-1, {pad})\n"
    (plain,) = browsed(tmp_path / 'plain', DETECTOR, coco_root, 'val', 1)
    (padded,) = browsed(tmp_path / 'padded', text, coco_root, 'val', 1)
    assert abs(plain - padded).mean() < 2
