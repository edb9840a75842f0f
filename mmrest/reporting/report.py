"""Report of a run: a self-contained HTML page."""

import base64
import datetime
import io
import math
import statistics
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
from jinja2 import Environment, PackageLoader
from mmengine.config import Config

from ..checkpoint import write_atomically
from ..engine.config import accumulation, total_batch_size
from ..inference.inputs import unique_names
from ..inference.sheets import draw_panel
from ..version import __version__
from .curves import default_keys, draw_curves, title_of
from .evaluation import Evaluation
from .logs import MAIN_METRIC, Log, metric_text
from .work_dir import changes_of, environment

Rows = List[Tuple[str, str]]


def write_report(
    work_dir: Path,
    cfg: Config,
    log: Log,
    out: Path,
    evaluation: Optional[Evaluation] = None,
    number: int = 4,
) -> None:
    """Write the report of a run to a file; raise CheckpointError if that fails.

    It shows a `number` of best and of worst predictions of the evaluation of a checkpoint;
    without one, it is a report of the logs only.
    """
    environments = environment(work_dir)
    # mmengine logs the number of processes as GPUs, also on a CPU.
    logged = {key: then for key, then, _ in environments}.get('GPU number', '')
    processes = int(logged) if logged.isdigit() else 1
    name = Path(cfg.filename).name
    package, changes = changes_of(cfg, name)
    curves = io.BytesIO()
    draw_curves([log], curves, default_keys(log))
    content = dict(
        title=log.name,
        config_name=name,
        package=package,
        changes=changes,
        config=cfg.pretty_text,
        environment=environments,
        curves=_address('png', curves.getvalue()),
        metrics=_metrics(log),
        speed=_speed(cfg, log, processes),
        version=__version__,
        date=datetime.date.today().isoformat(),
    )
    if evaluation is not None:
        content.update(_evaluated(evaluation, number))
        content['speed'] += evaluation.speed
    options = dict(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    pages = Environment(loader=PackageLoader('mmrest.reporting', 'templates'), **options)
    text = pages.get_template('report.html').render(content)
    out.parent.mkdir(parents=True, exist_ok=True)
    # File names that are not valid text are escaped.
    encoded = text.encode('utf-8', 'xmlcharrefreplace')
    write_atomically(out, lambda temporary: Path(temporary).write_bytes(encoded))


def _address(kind: str, image: bytes) -> str:
    return f'data:image/{kind};base64,{base64.b64encode(image).decode()}'


def _metrics(log: Log) -> List[Tuple[str, str, str, int]]:
    """Return the metrics of the log: name, last value, best value and its iteration."""
    rows = []
    for key in log.metrics:
        best = log.best(key)
        if best is not None:
            last = metric_text(log.points(key)[-1][1], key)
            rows.append((title_of(key), last, metric_text(best[1], key), best[0]))
    return rows


def _speed(cfg: Config, log: Log, processes: int) -> Rows:
    """Return batch size, throughput, time and memory of training."""
    rows: Rows = []
    columns = {
        name: [line[name] for line in log.train if name in line]
        for name in ('img_per_s', 'time', 'data_time', 'memory', 'memory_mb')
    }
    medians = {name: statistics.median(values) for name, values in columns.items() if values}
    batch, factors = total_batch_size(cfg, processes)
    if batch:
        rows.append(('batch size', f'{batch} = {factors}'))
    if 'img_per_s' not in medians and 'time' in medians and batch:
        medians['img_per_s'] = batch / accumulation(cfg) / medians['time']
    if 'img_per_s' in medians:
        rows.append(('training, median', f'{medians["img_per_s"]:.1f} img/s'))
    if 'time' in medians:
        text = f'{medians["time"]:.3f} s'
        if 'data_time' in medians:
            text += f', of which {medians["data_time"]:.3f} s waiting for data'
        rows.append(('one iteration, median', text))
        number = log.train[-1]['iter']
        total = datetime.timedelta(seconds=round(statistics.mean(columns['time']) * number))
        rows.append((f'all {number} iterations', f'{total} without evaluations'))
    for name, where in (('memory', 'of the GPU'), ('memory_mb', 'of the process')):
        if columns[name]:
            rows.append((f'memory {where} in training', f'{max(columns[name]):,.0f} MB at most'))
    return rows


def _evaluated(evaluation: Evaluation, number: int) -> Dict[str, Any]:
    """Return the fields of the template for an evaluation."""
    metrics, scores = evaluation.metrics, evaluation.scores.per_image()
    scored = (index for index, score in enumerate(scores) if score is not None)
    ranked = sorted(scored, key=scores.__getitem__)
    number = min(number, max(len(ranked) // 2, 1))
    best, worst = ranked[::-1][:number], ranked[:number]
    shown = {index: evaluation.scores.shown(index) for index in best + worst}
    names = unique_names([Path(path) for path, _, _ in shown.values()], suffix=True)
    drawings = {}
    for (index, parts), name in zip(shown.items(), names):
        panels = _panels(*parts, name, evaluation.dataset)
        drawings[index] = dict(name=name, score=scores[index], panels=panels)
    spread = 'No image has a score.'
    if ranked:
        lowest, middle, highest = np.quantile([scores[index] for index in ranked], (0, 0.5, 1))
        spread = (
            f'{len(ranked)} images have a score: the lowest is {lowest:.3f}, the median '
            f'{middle:.3f}, the highest {highest:.3f}.'
        )
    return dict(
        evaluation=evaluation,
        evaluated=[
            (title_of(key), metric_text(value, key))
            for key, value in metrics.items()
            if MAIN_METRIC.fullmatch(key) or key.startswith('coco/') or len(metrics) < 20
        ],
        table_of_classes=_table_of_classes(evaluation),
        spread=spread,
        best=[drawings[index] for index in best],
        worst=[drawings[index] for index in worst],
    )


def _table_of_classes(evaluation: Evaluation) -> Dict[str, Any]:
    """Return columns and rows of the table; cells have a text and the length of a bar in %."""

    def cell(value: float, column: str) -> Tuple[str, Optional[float]]:
        if column == 'objects':
            return f'{value:.0f}', None
        share = value if '%' in column else 100 * value
        return metric_text(value, column), round(share, 1) if math.isfinite(value) else 0

    columns = evaluation.scores.table()
    cells = [[cell(float(value), name) for value in column] for name, column in columns.items()]
    return dict(columns=list(columns), rows=list(zip(evaluation.scores.classes, zip(*cells))))


def _panels(
    path: str, truth: Any, predicted: Any, name: str, dataset: Any
) -> List[Tuple[str, str, str]]:
    """Return caption, description and address of the panels of an image."""
    panels = []
    contents = {'image': None, 'ground truth': truth, 'prediction': predicted}
    for title, content in contents.items():
        jpeg, inside = draw_panel(path, content, dataset)
        caption = title if content is None else f'{title}: {inside}'
        panels.append((caption, f'{caption}, of {name}', _address('jpeg', jpeg)))
    return panels
