"""Tiny datasets in the layouts of COCO and ADE20K: coloured rectangles on noise."""

import json

import cv2
import numpy as np

CLASSES = ['person', 'bicycle', 'car']  # the first ids of COCO
HEIGHT, WIDTH = 60, 80


def _picture(rng):
    """Return an image and its rectangles as (class index, x, y, w, h)."""
    image = rng.integers(0, 60, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    boxes = []
    for index in range(3):
        x, y = int(rng.integers(0, 40)), int(rng.integers(0, 20))
        boxes.append((index, x, y, 40, 38))
        image[y : y + 38, x : x + 40, index] += 150
    return image, boxes


def draw_coco(root, images=4):
    """Write the set below `root`; returns `root`."""
    rng = np.random.default_rng(0)
    (root / 'annotations').mkdir()
    categories = [dict(id=number, name=name) for number, name in enumerate(CLASSES, 1)]
    for split in ('train2017', 'val2017'):
        (root / split).mkdir()
        content = dict(images=[], annotations=[], categories=categories)
        for number in range(1, images + 1):
            image, boxes = _picture(rng)
            name = f'{number:012d}.jpg'
            cv2.imwrite(str(root / split / name), image)
            content['images'].append(dict(id=number, file_name=name, height=HEIGHT, width=WIDTH))
            for index, x, y, w, h in boxes:
                corners = [x, y, x + w, y, x + w, y + h, x, y + h]
                content['annotations'].append(dict(
                    id=len(content['annotations']) + 1, image_id=number, category_id=index + 1,
                    bbox=[x, y, w, h], area=w * h, iscrowd=0, segmentation=[corners],
                ))  # fmt: skip
        (root / 'annotations' / f'instances_{split}.json').write_text(json.dumps(content))
    return root


def draw_ade(root, images=4):
    """Write the set below `root`; returns `root`."""
    rng = np.random.default_rng(0)
    for split in ('training', 'validation'):
        pictures, maps = root / 'images' / split, root / 'annotations' / split
        pictures.mkdir(parents=True)
        maps.mkdir(parents=True)
        for number in range(1, images + 1):
            image, boxes = _picture(rng)
            labels = np.zeros((HEIGHT, WIDTH), np.uint8)
            for index, x, y, w, h in boxes:
                labels[y : y + h, x : x + w] = index + 1
            cv2.imwrite(str(pictures / f'{number}.jpg'), image)
            cv2.imwrite(str(maps / f'{number}.png'), labels)
    return root
