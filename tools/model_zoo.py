"""Write docs/model_zoo.md and configs/metafile.yml from the configs; needs mmpretrain."""

from pathlib import Path
from typing import Any, Dict, List, Sequence

import yaml

from mmrest.analysis.complexity import count
from mmrest.analysis.networks import (
    CLASSIFICATION_SIZE,
    DETECTION_SIZE,
    OURS,
    SEGMENTATION_SIZE,
    on_meta,
    usual_size,
)
from mmrest.cli.command import Parser, markdown_table, run
from mmrest.engine.config import load_config
from mmrest.shipped import METHODS, described

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs' / 'model_zoo.md'
METAFILE = ROOT / 'configs' / 'metafile.yml'

SCHEDULES = ('1x', '3x', '160k', '80k', '300e', 'tl_310e')
DATA = {'mmdet': 'COCO', 'mmseg': 'ADE20K', 'mmpretrain': 'ImageNet-1k'}
METRICS = {
    'retinanet': ('box AP',),
    'maskrcnn': ('box AP', 'mask AP'),
    'cascade_maskrcnn': ('box AP', 'mask AP'),
    'upernet': ('mIoU',),
    'semfpn': ('mIoU',),
    'imagenet': ('top-1', 'top-5'),
}
TASKS = {
    'box AP': 'Object Detection',
    'mask AP': 'Instance Segmentation',
    'mIoU': 'Semantic Segmentation',
    'top-1': 'Image Classification',
    'top-5': 'Image Classification',
}
REPORTED = {
    'retinanet_rest_small_1x': (40.3,),
    'retinanet_rest_base_1x': (42.0,),
    'retinanet_rmt_t_1x': (45.1,),
    'retinanet_rmt_s_1x': (47.8,),
    'retinanet_rmt_b_1x': (49.1,),
    'retinanet_rmt_l_1x': (49.4,),
    'maskrcnn_rest_small_1x': (39.6, 37.2),
    'maskrcnn_rest_base_1x': (41.6, 38.7),
    'maskrcnn_rmt_t_1x': (47.1, 42.6),
    'maskrcnn_rmt_s_1x': (49.0, 43.9),
    'maskrcnn_rmt_b_1x': (51.1, 45.5),
    'maskrcnn_rmt_l_1x': (51.6, 45.9),
    'maskrcnn_rmt_s_3x': (50.7, 44.9),
    'maskrcnn_rmt_b_3x': (52.2, 46.1),
    'cascade_maskrcnn_rmt_s_3x': (53.2, 46.1),
    'cascade_maskrcnn_rmt_b_3x': (54.5, 47.2),
    'upernet_rmt_s_160k': (49.8,),
    'upernet_rmt_b_160k': (52.0,),
    'upernet_rmt_l_160k': (52.8,),
    'semfpn_rmt_t_80k': (46.4,),
    'semfpn_rmt_s_80k': (49.4,),
    'semfpn_rmt_b_80k': (50.4,),
    'semfpn_rmt_l_80k': (51.4,),
    'imagenet_rest_lite_300e': (77.2, 93.7),
    'imagenet_rest_small_300e': (79.6, 94.9),
    'imagenet_rest_base_300e': (81.6, 95.7),
    'imagenet_rest_large_300e': (83.6, 96.3),
    'imagenet_rmt_t_300e': (82.4,),
    'imagenet_rmt_s_300e': (84.1,),
    'imagenet_rmt_b_300e': (85.0,),
    'imagenet_rmt_l_300e': (85.5,),
    'imagenet_rmt_s_tl_310e': (84.8,),
    'imagenet_rmt_b_tl_310e': (85.6,),
    'imagenet_rmt_l_tl_310e': (86.1,),
    'imagenet_rmt_swin_t_300e': (83.6,),
    'imagenet_rmt_swin_s_300e': (84.5,),
    'imagenet_rmt_deit_s_300e': (81.7,),
}
"""Results of the papers, in the order of METRICS, where they name schedule and head."""

DRIVE = 'https://drive.google.com/drive/folders/'
BAIDU = 'https://pan.baidu.com/s/'
OFFICIAL = {
    **{
        f'imagenet_rest_{size}_300e': f'{DRIVE}1H6QUZsKYbU6LECtxzGHKqEeGbx1E8uQ9'
        for size in ('lite', 'small', 'base', 'large')
    },
    'imagenet_rmt_t_300e': f'{BAIDU}1uTSCuPqYRNmT4Zb4Je9BOw?pwd=vsyv',
    'imagenet_rmt_s_300e': f'{BAIDU}1aQeErkmy191-zshlW2bT0g?pwd=3ay4',
    'imagenet_rmt_b_300e': f'{BAIDU}1ZDNl_broia_fvvlEoTaFhA?pwd=yzge',
    'imagenet_rmt_l_300e': f'{BAIDU}1v7QWgAh0TulWOTg4d94KHw?pwd=uewu',
    'imagenet_rmt_s_tl_310e': f'{BAIDU}1Xjgko9_-rokfvP39uiwTqQ?pwd=q37r',
    'imagenet_rmt_b_tl_310e': f'{BAIDU}1fqCzZ8Pfw39QA4LQ3dSiCg?pwd=2rdt',
    'imagenet_rmt_l_tl_310e': f'{BAIDU}1KvV8IMJC6xG5Eh6w6uFbpw?pwd=z1k2',
    'retinanet_rest_small_1x': f'{BAIDU}13YXVRQeNcF_3Txns8eJzZw',
    'retinanet_rest_base_1x': f'{BAIDU}1hMRM5YEIGsfWfvqbuC7JWA',
    'maskrcnn_rest_small_1x': f'{BAIDU}1UfDsRGwgZcydXtj56ZFoDg',
    'maskrcnn_rest_base_1x': f'{BAIDU}1oSdMGTSBK_JDcLEq3XjY8w',
}
"""Where the authors list the weights of a config."""

INTRODUCTION = """\
# Model zoo

<!-- Written by `python tools/model_zoo.py`: change that, not this. -->

This page lists the configs, their sizes and results, and the official weights. To train or test a
config, pass its name: `mmrest train maskrcnn_rmt_s_3x --data-root data/coco`.

Results are single-scale and *reported by the papers, not reproduced here*; "-" means not reported.
RMT-S top-1 is for the EMA weights. Parameter counts include training-only heads. MACs are for
inference on one image and include attention matmuls. The input size is {} x {} for detectors,
{} x {} for segmentors and {} x {} for classifiers. For two-stage detectors, the MACs assume
1000 region proposals and 100 masks. `3x` configs use multi-scale training, and `tl` configs use
[token labels](classification.md#token-labelling)."""

WEIGHTS = """\
## Official weights

The authors host these files. Use classifier weights to initialise a backbone or test the
classifier:

    mmrest train maskrcnn_rmt_s_3x --pretrained RMT-S.pth
    mmrest test imagenet_rmt_s_300e RMT-S.pth

{}

The ResT detectors are detectron2 checkpoints; load their backbones with `--pretrained`. The RMT
detectors are in [one folder]({}1qWiHjEy_9w29d1lNLVOSnQ?pwd=k22z) and the segmentors in
[another]({}19q_dNqPAGnzgCWPBVYTzjg?pwd=vtpe). Neither folder lists its networks; to identify the
network in a file, run `mmrest convert FILE --list`."""


def zoo() -> List[Dict[str, Any]]:
    """Return the metafile's entries of all configs, by method, backbone and schedule."""
    models = []
    for method in METHODS:
        for backbone in OURS:
            counted = None  # the schedule changes a classifier only
            for schedule in SCHEDULES:
                path = ROOT / 'configs' / f'{method}_{backbone}_{schedule}.py'
                if not path.is_file():
                    continue
                if counted is None or method == 'imagenet':
                    cfg = load_config(str(path))
                    counted = count(on_meta(cfg), *usual_size(cfg))
                models.append(entry(path.stem, METRICS[method], DATA[cfg.default_scope], counted))
    return models


def entry(name: str, metrics: Sequence[str], data: str, counted: Any) -> Dict[str, Any]:
    """Return the metafile's entry of a config."""
    model = {
        'Name': name,
        'In Collection': 'ResT' if '_rest_' in name else 'RMT',
        'Config': f'configs/{name}.py',
        'Metadata': {
            'Training Data': data,
            'Parameters': counted.parameters,
            'FLOPs': counted.macs,
        },
    }
    if name in OFFICIAL:
        model['Metadata']['Official Weights'] = OFFICIAL[name]
    results = [
        {
            'Task': TASKS[metric],
            'Dataset': data,
            'Metrics': {metric: value},
            'Note': 'reported by the paper, not reproduced here',
        }
        for metric, value in zip(metrics, REPORTED.get(name, ()))
    ]
    return {**model, 'Results': results} if results else model


def page(models: List[Dict[str, Any]]) -> str:
    """Return the page."""
    parts = [INTRODUCTION.format(*DETECTION_SIZE, *SEGMENTATION_SIZE, *CLASSIFICATION_SIZE)]
    for method, title in METHODS.items():
        chosen = [model for model in models if described(model).method == title]
        heading = 'Classification' if method == 'imagenet' else title
        parts += [
            f'## {heading}',
            results(chosen, ' / '.join(METRICS[method]).replace('AP / ', '/ ')),
        ]
    rows: Dict[str, List[str]] = {}
    for name, url in OFFICIAL.items():
        rows.setdefault(url, []).append(f'`{name}`')
    table = [['<br>'.join(names), f'[{url.split("/")[2]}]({url})'] for url, names in rows.items()]
    weights = WEIGHTS.format(markdown_table(['config', 'official weights'], table), BAIDU, BAIDU)
    return '\n\n'.join([*parts, weights]) + '\n'


def results(models: List[Dict[str, Any]], metrics: str) -> str:
    """Return the table of a method, with one row per network for all its schedules."""
    networks: Dict[Any, Dict[str, Dict[str, Any]]] = {}
    for model in models:
        key = described(model).backbone, model['Metadata']['Parameters']
        networks.setdefault(key, {})[described(model).schedule] = model
    schedules = sorted({described(m).schedule for m in models if m['Name'] in REPORTED})
    is_single = len(networks) == len(models)  # one schedule per network
    columns = [metrics] if is_single else [f'{metrics}, {schedule}' for schedule in schedules]
    rows = []
    for (backbone, parameters), configs in networks.items():
        shown = configs.values() if is_single else [configs[schedule] for schedule in schedules]
        rows.append([
            backbone,
            f'{parameters / 1e6:.2f}',
            f'{next(iter(configs.values()))["Metadata"]["FLOPs"] / 1e9:.1f}',
            *(' / '.join(map(str, REPORTED.get(model['Name'], '-'))) for model in shown),
            '<br>'.join(f'[{m["Name"]}](../{m["Config"]})' for m in configs.values()),
        ])  # fmt: skip
    return markdown_table(['backbone', 'parameters (M)', 'MACs (G)', *columns, 'configs'], rows)


def metafile(models: List[Dict[str, Any]]) -> str:
    """Return the metafile."""
    papers = {
        'ResT': ('2105.13677', 'ResT: An Efficient Transformer for Visual Recognition'),
        'RMT': ('2309.11523', 'RMT: Retentive Networks Meet Vision Transformers'),
    }
    collections = [
        {'Name': family, 'Paper': {'URL': f'https://arxiv.org/abs/{number}', 'Title': title}}
        for family, (number, title) in papers.items()
    ]
    content = {'Collections': collections, 'Models': models}
    return '# Written by `python tools/model_zoo.py`.\n' + yaml.safe_dump(content, sort_keys=False)


def main() -> None:
    """Write both files."""
    Parser(description=__doc__).parse_args()
    models = zoo()
    for path, text in ((PAGE, page(models)), (METAFILE, metafile(models))):
        path.write_text(text)
        print(f'{len(models)} configs: {path}')


if __name__ == '__main__':
    run(main)
