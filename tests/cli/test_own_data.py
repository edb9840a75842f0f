"""Custom data trains with two changed lines of configs/own_coco.py."""

import difflib
import json
import shutil

import torch

from tests.runs import small_clone, train

OWN = {'person': 'tabby cat', 'bicycle': 'dog', 'car': 'horse'}


def test_two_lines(tmp_path, coco_root):
    clone = small_clone(tmp_path)
    shutil.copytree(coco_root, clone / 'farm')
    for path in (clone / 'farm' / 'annotations').iterdir():
        content = json.loads(path.read_text())
        for category in content['categories']:
            category.update(id=10 * category['id'], name=OWN[category['name']])
        for annotation in content['annotations']:
            annotation['category_id'] *= 10
        path.write_text(json.dumps(content))

    config = clone / 'configs' / 'own_coco.py'
    before = config.read_text()
    after = before.replace("'data/shapes/coco/'", "'farm'")
    after = after.replace("('square', 'disc', 'triangle')", "('tabby cat', 'dog')")
    changed = difflib.ndiff(before.split('\n'), after.split('\n'))
    assert sum(line.startswith('+ ') for line in changed) == 2
    config.write_text(after)

    done = train('configs/own_coco.py', cwd=clone)
    assert 'bbox_mAP: ' in done.stdout and 'segm_mAP: ' in done.stdout
    state = torch.load(clone / 'work_dirs/own_coco/epoch_1.pth', weights_only=False)
    assert state['meta']['dataset_meta']['classes'] == ('tabby cat', 'dog')
    assert state['state_dict']['roi_head.mask_head.conv_logits.bias'].shape == (2,)
