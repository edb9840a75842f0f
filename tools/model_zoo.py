"""Update the tables of docs/model_zoo.md and the sizes in configs/metafile.yml; needs mmpretrain.

Results and official weights are entered in the metafile by hand, and kept.
"""

import itertools
import re
from pathlib import Path
from typing import Any, Dict, List

import yaml

from mmrest.analysis.complexity import count
from mmrest.analysis.networks import OURS, on_meta, usual_size
from mmrest.cli.command import Parser, markdown_table, run
from mmrest.engine.config import load_config
from mmrest.shipped import METHODS, described, reported

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs' / 'model_zoo.md'
METAFILE = ROOT / 'configs' / 'metafile.yml'

SCHEDULES = ('1x', '3x', '160k', '80k', '300e', 'tl_310e')
DATA = {'mmdet': 'COCO', 'mmseg': 'ADE20K', 'mmpretrain': 'ImageNet-1k'}

HEADER = """\
# `python tools/model_zoo.py` adds configs, and writes their sizes. Enter results and official
# weights here; docs/model_zoo.md and `mmrest configs` show them.
"""


def zoo() -> List[Dict[str, Any]]:
    """Return the metafile's entries of all configs, by method, backbone and schedule."""
    known = {model['Name']: model for model in yaml.safe_load(METAFILE.read_text())['Models']}
    models = []
    for method, backbone, schedule in itertools.product(METHODS, OURS, SCHEDULES):
        path = ROOT / 'configs' / f'{method}_{backbone}_{schedule}.py'
        if not path.is_file():
            continue
        cfg = load_config(str(path))
        counted = count(on_meta(cfg), *usual_size(cfg))
        before = known.get(path.stem, {'Metadata': {}})
        sizes = {'Parameters': counted.parameters, 'FLOPs': counted.macs}
        data = {'Training Data': DATA[cfg.default_scope]}
        models.append({
            'Name': path.stem,
            'In Collection': 'ResT' if backbone.startswith('rest_') else 'RMT',
            'Config': f'configs/{path.name}',
            **before,
            'Metadata': {**before['Metadata'], **data, **sizes},
        })  # fmt: skip
    return models


def page(models: List[Dict[str, Any]]) -> str:
    """Return the page with new tables: one per method, in order, and that of the weights."""
    methods = itertools.groupby(models, lambda model: described(model)['method'])
    tables = [results(list(of_method)) for _, of_method in methods]
    weights: Dict[str, List[str]] = {}
    for model in models:
        url = model['Metadata'].get('Official Weights')
        if url is not None:
            weights.setdefault(url, []).append(f'`{model["Name"]}`')
    rows = [['<br>'.join(names), f'[{u.split("/")[2]}]({u})'] for u, names in weights.items()]
    tables.append(markdown_table(['config', 'official weights'], rows))
    places = re.split(r'^(?:\|.*\n)+', PAGE.read_text(), flags=re.M)
    return places[0] + ''.join(f'{t}\n{p}' for t, p in zip(tables, places[1:]))


def results(models: List[Dict[str, Any]]) -> str:
    """Return the table of a method, with one row per network for all its schedules."""
    networks: Dict[Any, Dict[str, Dict[str, Any]]] = {}
    for model in models:
        key = described(model)['backbone'], model['Metadata']['Parameters']
        networks.setdefault(key, {})[described(model)['schedule']] = model
    schedules = sorted({described(model)['schedule'] for model in models if 'Results' in model})
    metrics = ' / '.join(max(map(reported, models), key=len)).replace('AP / ', '/ ')
    is_single = len(networks) == len(models)  # one schedule per network
    columns = [metrics] if is_single else [f'{metrics}, {schedule}' for schedule in schedules]
    rows = []
    for (backbone, parameters), configs in networks.items():
        shown = configs.values() if is_single else [configs[schedule] for schedule in schedules]
        rows.append([
            backbone,
            f'{parameters / 1e6:.2f}',
            f'{next(iter(configs.values()))["Metadata"]["FLOPs"] / 1e9:.1f}',
            *(' / '.join(map(str, reported(model).values())) or '-' for model in shown),
            '<br>'.join(f'[{m["Name"]}](../{m["Config"]})' for m in configs.values()),
        ])  # fmt: skip
    return markdown_table(['backbone', 'parameters (M)', 'MACs (G)', *columns, 'configs'], rows)


def metafile(models: List[Dict[str, Any]]) -> str:
    """Return the metafile."""
    content = dict(yaml.safe_load(METAFILE.read_text()), Models=models)
    return HEADER + yaml.safe_dump(content, sort_keys=False)


def main() -> None:
    """Write both files."""
    Parser(description=__doc__).parse_args()
    models = zoo()
    for path, text in ((PAGE, page(models)), (METAFILE, metafile(models))):
        path.write_text(text)
        print(f'{len(models)} configs: {path}')


if __name__ == '__main__':
    run(main)
