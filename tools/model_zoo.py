"""Write docs/model_zoo.md and configs/metafile.yml from the configs."""

import itertools
from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple

import torch
import yaml

from mmrest import RMT
from mmrest.apis.complexity import Complexity, count, count_classifier, count_config
from mmrest.cli.command import Parser, run
from mmrest.engine.config import load_config

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs' / 'model_zoo.md'
METAFILE = ROOT / 'configs' / 'metafile.yml'

METHODS = {
    'retinanet': 'RetinaNet',
    'maskrcnn': 'Mask R-CNN',
    'cascade_maskrcnn': 'Cascade Mask R-CNN',
    'upernet': 'UperNet',
    'semfpn': 'Semantic FPN',
    'imagenet': 'Classification',
}
BACKBONES = {
    f'{family.lower()}_{size.lower()}': f'{family}-{size}'
    for family, sizes in (('ResT', ('Lite', 'Small', 'Base', 'Large')), ('RMT', 'TSBL'))
    for size in sizes
}
ABLATIONS = {'rmt_swin_t': 'RMT-Swin-T', 'rmt_swin_s': 'RMT-Swin-S', 'rmt_deit_s': 'RMT-DeiT-S'}
"""The ablation networks of RMT."""

SWITCHES = {
    'decay': 'decay',
    'lce': 'LCE',
    'cpe': 'CPE',
    'conv_ffn': 'FFN with convolution',
    'conv_stem': 'conv stem',
    'conv_downsample': 'conv downsampling',
}
"""Fields of RMT's archs, in words."""

SCHEDULES = {
    '1x': '1x',
    '3x': '3x+MS',
    '160k': '160k',
    '80k': '80k',
    '300e': '300 epochs',
    'tl_310e': '310 epochs, token labels',
}
DETECTION_SIZE = (800, 1280)
SEGMENTATION_SIZE = (512, 512)
CLASSIFICATION_SIZE = (224, 224)

REPORTED: Dict[str, Dict[str, float]] = {
    'retinanet_rest_small_1x': {'box AP': 40.3},
    'retinanet_rest_base_1x': {'box AP': 42.0},
    'maskrcnn_rest_small_1x': {'box AP': 39.6, 'mask AP': 37.2},
    'maskrcnn_rest_base_1x': {'box AP': 41.6, 'mask AP': 38.7},
    'imagenet_rest_lite_300e': {'top-1': 77.2, 'top-5': 93.7},
    'imagenet_rest_small_300e': {'top-1': 79.6, 'top-5': 94.9},
    'imagenet_rest_base_300e': {'top-1': 81.6, 'top-5': 95.7},
    'imagenet_rest_large_300e': {'top-1': 83.6, 'top-5': 96.3},
    'imagenet_rmt_t_300e': {'top-1': 82.4},
    'imagenet_rmt_s_300e': {'top-1': 84.1},
    'imagenet_rmt_b_300e': {'top-1': 85.0},
    'imagenet_rmt_l_300e': {'top-1': 85.5},
    'imagenet_rmt_s_tl_310e': {'top-1': 84.8},
    'imagenet_rmt_b_tl_310e': {'top-1': 85.6},
    'imagenet_rmt_l_tl_310e': {'top-1': 86.1},
}
"""What the papers report for a config, as far as it is known which."""

TOKENS = {
    'imagenet_rmt_s_tl_310e': 'projected',
    'imagenet_rmt_b_tl_310e': 'last',
    'imagenet_rmt_l_tl_310e': 'last',
}
"""Which tokens of a config have a classifier of their own."""

TASKS = {
    'box AP': 'Object Detection',
    'mask AP': 'Instance Segmentation',
    'top-1': 'Image Classification',
    'top-5': 'Image Classification',
}
DATA = {
    DETECTION_SIZE: 'COCO',
    SEGMENTATION_SIZE: 'ADE20K',
    CLASSIFICATION_SIZE: 'ImageNet-1k',
}

PAPERS = {
    'ResT': (
        'ResT: An Efficient Transformer for Visual Recognition',
        'https://arxiv.org/abs/2105.13677',
    ),
    'RMT': (
        'RMT: Retentive Networks Meet Vision Transformers',
        'https://arxiv.org/abs/2309.11523',
    ),
}


class Entry(NamedTuple):
    """One config of the zoo."""

    config: str
    method: str
    backbone: str
    schedule: str
    size: Tuple[int, int]
    complexity: Complexity

    @property
    def data(self) -> str:
        """What it is trained on."""
        return DATA[self.size]


def zoo() -> List[Entry]:
    """Entries of all configs of the papers, by method, backbone and schedule."""
    entries = []
    backbones = {**BACKBONES, **ABLATIONS}
    for method, backbone in itertools.product(METHODS, backbones):
        measured = None  # the schedule changes nothing of a detector or segmentor
        for schedule in SCHEDULES:
            path = ROOT / 'configs' / f'{method}_{backbone}_{schedule}.py'
            if path.is_file():
                if measured is None or method == 'imagenet':
                    measured = measure(path, backbones[backbone])
                names = (path.stem, METHODS[method], backbones[backbone], schedule)
                entries.append(Entry(*names, *measured))
    return entries


def measure(path: Path, backbone: str) -> Tuple[Tuple[int, int], Complexity]:
    """Size of the image, and what the network of a config takes for it."""
    if path.stem.startswith('imagenet_'):
        family, _, arch = backbone.partition('-')
        size = CLASSIFICATION_SIZE
        return size, count_classifier(
            family, arch.lower().replace('-', '_'), *size, TOKENS.get(path.stem)
        )
    cfg = load_config(str(path))
    size = DETECTION_SIZE if cfg.default_scope == 'mmdet' else SEGMENTATION_SIZE
    return size, count_config(cfg, *size)


def page(entries: List[Entry]) -> str:
    """The page, as Markdown."""
    lines = [
        '# Model zoo',
        '',
        '<!-- Written by `python tools/model_zoo.py`: change that, not this. -->',
        '',
        'Parameters are those of the whole network, training heads included. Multiply-adds are',
        'of inference on one image with every product of the attention counted: for detectors',
        'at {} x {} with 1000 regions and 100 masks, for segmentors at {} x {}, for'.format(
            *DETECTION_SIZE, *SEGMENTATION_SIZE
        ),
        'classifiers at {} x {}.'.format(*CLASSIFICATION_SIZE),
        '',
        'Results are the papers\', *reported, not reproduced here*; "-" stands where none is',
        'given here. The best that RMT reports is 54.5 box AP and 47.2 mask AP on COCO and 52.8',
        "mIoU on ADE20K; RMT-S's top-1 is that of the average of its weights.",
    ]
    for method in METHODS.values():
        of_method = [entry for entry in entries if entry.method == method]
        metrics = _metrics(of_method[0]) if of_method else ()
        reported = ' | '.join(f'{metric}, reported' for metric in metrics)
        lines += [
            '',
            f'## {method}',
            '',
            f'| backbone | schedule | parameters (M) | multiply-adds (G) | {reported} | config |',
            '|' + ' --- |' * (5 + len(metrics)),
        ]
        for entry in of_method:
            results = REPORTED.get(entry.config, {})
            cells = [
                entry.backbone,
                SCHEDULES[entry.schedule],
                f'{entry.complexity.parameters / 1e6:.2f}',
                f'{entry.complexity.macs / 1e9:.1f}',
                *(str(results.get(metric, '-')) for metric in metrics),
                f'[{entry.config}](../configs/{entry.config}.py)',
            ]
            lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join([*lines, *ablations()]) + '\n'


def ablations() -> List[str]:
    """Lines on the ablation networks, each with the parts of RMT that it has."""
    rows = {**{name: BACKBONES[name] for name in ('rmt_t', 'rmt_s')}, **ABLATIONS}
    lines = [
        '',
        '## Ablation networks of RMT',
        '',
        'Backbones without a classifier, multiply-adds at 224 x 224, and the parts of RMT that',
        'they have, beside two of the four; [ablations](ablations.md) tells of the switches. "-"',
        'stands where a top-1 is not given here.',
        '',
        '| backbone | parameters (M) | multiply-adds (G) | axial stages | '
        f'{" | ".join(SWITCHES.values())} | top-1, reported |',
        '|' + ' --- |' * (5 + len(SWITCHES)),
    ]
    for name, title in rows.items():
        with torch.device('meta'):
            network = RMT(name.partition('_')[2])
        complexity, arch = count(network, 224, 224), network.arch
        axial = [str(stage) for stage, is_axial in enumerate(arch.axial, 1) if is_axial]
        cells = [
            title,
            f'{complexity.parameters / 1e6:.2f}',
            f'{complexity.macs / 1e9:.2f}',
            ', '.join(axial) or 'none',
            *('yes' if getattr(arch, switch) else 'no' for switch in SWITCHES),
            str(REPORTED.get(f'imagenet_{name}_300e', {}).get('top-1', '-')),
        ]
        lines.append(f'| {" | ".join(cells)} |')
    return lines


def _metrics(entry: Entry) -> Tuple[str, ...]:
    if entry.data == 'ImageNet-1k':
        return ('top-1', 'top-5')
    if entry.data == 'ADE20K':
        return ('mIoU',)
    return ('box AP',) if entry.method == 'RetinaNet' else ('box AP', 'mask AP')


def metafile(entries: List[Entry]) -> str:
    """The metafile, as YAML in OpenMMLab's fields."""
    collections = [
        {'Name': family, 'Paper': {'URL': url, 'Title': title}}
        for family, (title, url) in PAPERS.items()
    ]
    models = []
    for entry in entries:
        model = {
            'Name': entry.config,
            'In Collection': entry.backbone.partition('-')[0],
            'Config': f'configs/{entry.config}.py',
            'Metadata': {
                'Training Data': entry.data,
                'Parameters': entry.complexity.parameters,
                'FLOPs': entry.complexity.macs,
            },
        }
        results = REPORTED.get(entry.config)
        if results:
            model['Results'] = [
                {
                    'Task': TASKS[metric],
                    'Dataset': entry.data,
                    'Metrics': {metric: value},
                    'Note': 'reported by the paper, not reproduced here',
                }
                for metric, value in results.items()
            ]
        models.append(model)
    content = {'Collections': collections, 'Models': models}
    return '# Written by `python tools/model_zoo.py`.\n' + yaml.safe_dump(content, sort_keys=False)


def main() -> None:
    """Write."""
    Parser(description=__doc__).parse_args()
    entries = zoo()
    for path, text in ((PAGE, page(entries)), (METAFILE, metafile(entries))):
        path.write_text(text)
        print(f'{len(entries)} configs: {path}')


if __name__ == '__main__':
    run(main)
