"""The report of a run: one HTML page that needs nothing but a browser."""

import base64
import datetime
import math
import statistics
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Set, Tuple

import numpy as np
import torch
from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from mmengine.config import Config

from ..checkpoint import write_atomically
from ..engine.display import colours
from ..inference.inputs import unique_names
from ..inference.sheets import draw_panel
from ..version import __version__
from .curves import default_keys, panels, svg_of, title_of
from .evaluation import Evaluation, evaluate
from .logs import MAIN_METRIC, PERCENTAGE, Log
from .run_summary import Rows, changes_of, environment, summary_of
from .scores import Table


class Picture(NamedTuple):
    """A prediction in the report.

    Attributes:
        name: of the image file; with folders if two have the same name.
        score: of the image.
        panels: what each picture shows, a description of it, and the picture as an address.
    """

    name: str
    score: float
    panels: List[Tuple[str, str, str]]


def write_report(
    work_dir: Path,
    cfg: Config,
    log: Log,
    out: Path,
    checkpoint: Optional[str],
    device: torch.device,
    number: int = 4,
    score_thr: float = 0.3,
) -> None:
    """Write the report of a run.

    Args:
        work_dir: of the run.
        cfg: of the run, with what is to differ in the evaluation; changed.
        log: of the run.
        out: the page.
        checkpoint: what to evaluate; None for a report of the logs alone.
        device: what to evaluate on.
        number: of best predictions that are shown, and of worst ones.
        score_thr: detections below it are not drawn, see :class:`.InstanceScores`.

    Raises:
        UsageError: see :func:`.evaluation.evaluate`.
        CheckpointError: likewise, or the page cannot be written.
    """
    environment_rows = environment(work_dir)
    processes = _processes(environment_rows)
    name = Path(cfg.filename).name
    package, changes = changes_of(cfg, name)
    content = dict(
        title=log.name,
        config_name=name,
        summary=summary_of(cfg, log, processes),
        package=package,
        changes=changes,
        config=cfg.pretty_text,
        environment=environment_rows,
        curves=_curves(log),
        metrics=_metrics(log),
        speed=_speed(cfg, log, processes),
        version=__version__,
        date=datetime.date.today().isoformat(),
    )
    if checkpoint is not None:
        found = evaluate(cfg, checkpoint, device, score_thr)
        content.update(_evaluated(found, checkpoint, number))
        content['speed'] += _inference(found)
    pages = Environment(
        loader=PackageLoader('mmrest.reporting', 'templates'),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = pages.get_template('report.html').render(content)
    out.parent.mkdir(parents=True, exist_ok=True)
    # Of a name that is not text its bytes' numbers are left.
    encoded = text.encode('utf-8', 'xmlcharrefreplace')
    write_atomically(out, lambda temporary: Path(temporary).write_bytes(encoded))


def _processes(environment_rows: List[Tuple[str, str, str]]) -> int:
    """How many processes the run had: mmengine logs them as GPUs, and on a CPU too."""
    logged = {key: then for key, then, _ in environment_rows}.get('GPU number', '')
    return int(logged) if logged.isdigit() else 1


def _curves(log: Log) -> List[Markup]:
    """Panels of curves."""
    found = []
    for index, panel in enumerate(panels([log], default_keys(log))):
        lines = ', '.join(
            f'{line.label} from {line.points[0][1]:.3g} to {line.points[-1][1]:.3g}'
            for line in panel.lines
        )
        description = f'{panel.quantity} over iterations: {lines}'
        found.append(Markup(svg_of(panel, f'curve{index}', description)))
    return found


def _metrics(log: Log) -> List[Tuple[str, str, str, str]]:
    """Metrics of the log: name, the last value, the best one and its iteration."""
    rows = []
    for key in log.metrics:
        found = log.best(key)
        if found is not None:
            step, best = found
            last = [value for _, value in log.points(key) if math.isfinite(value)][-1]
            text = _metric_text(best, key)
            where = '-' if text == '-' else str(step)
            rows.append((title_of(key), _metric_text(last, key), text, where))
    return rows


def _metric_text(value: float, key: str = '') -> str:
    """A metric as people write it: percentages with two digits, fractions with three.

    COCO's evaluation says -1 where there is nothing to find.
    """
    if not math.isfinite(value) or value < 0:
        return '-'
    return f'{value:.2f}' if PERCENTAGE.fullmatch(key) or '%' in key else f'{value:.3f}'


def _speed(cfg: Config, log: Log, processes: int) -> Rows:
    """Rate, time and memory of training."""
    rows: Rows = []
    columns = {
        name: [line[name] for line in log.train if name in line]
        for name in ('img_per_s', 'time', 'data_time', 'memory', 'memory_mb')
    }
    seconds = columns['time']
    if columns['img_per_s']:
        rows.append(
            ('training, median', f'{statistics.median(columns["img_per_s"]):.1f} images/s')
        )
    elif seconds and cfg.get('train_dataloader', {}).get('batch_size'):
        batch = cfg.train_dataloader.batch_size * processes
        rows.append(('training, median', f'{batch / statistics.median(seconds):.1f} images/s'))
    if seconds:
        text = f'{statistics.median(seconds):.3f} s'
        if columns['data_time']:
            text += f', of which {statistics.median(columns["data_time"]):.3f} s wait for data'
        rows.append(('one iteration, median', text))
        total = datetime.timedelta(seconds=round(statistics.mean(seconds) * log.train[-1]['iter']))
        rows.append(('all iterations', f'{total} without evaluations'))
    for name, where in (('memory', 'of the GPU'), ('memory_mb', 'of the process')):
        if columns[name]:
            rows.append((f'memory {where} in training', f'{max(columns[name]):,.0f} MB at most'))
    return rows


def _inference(found: Evaluation) -> Rows:
    per_image = 1000 * found.seconds
    rows = [('inference', f'{per_image:.1f} ms an image on {found.device}, one image at a time')]
    if found.memory is not None:
        rows.append(('memory in evaluation', f'{found.memory:,.0f} MB at most'))
    rows.append(('parameters', f'{found.parameters / 1e6:.2f} million'))
    return rows


def _evaluated(found: Evaluation, checkpoint: str, number: int) -> Dict[str, Any]:
    """What the template is to know of an evaluation."""
    scores = found.scores.per_image()
    scored = (index for index, score in enumerate(scores) if score is not None)
    ranked = sorted(scored, key=scores.__getitem__)
    number = min(number, len(ranked) // 2) if len(ranked) > 1 else min(number, len(ranked))
    best, worst = ranked[::-1][:number], ranked[:number]
    paths = [found.scores.shown(index).path for index in best + worst]
    names = dict(zip(paths, unique_names(paths, suffix=True)))
    return dict(
        checkpoint=Path(checkpoint).name,
        phase=found.phase,
        images=found.images,
        evaluated=[
            (title_of(key), _metric_text(float(value), key))
            for key, value in found.metrics.items()
            if MAIN_METRIC.fullmatch(key) or key.startswith('coco/') or len(found.metrics) < 20
        ],
        table_of_classes=_cells(found.scores.table()),
        how=found.scores.how,
        spread=_spread([scores[index] for index in ranked]),
        best=[_picture(found, index, scores[index], names) for index in best],
        worst=[_picture(found, index, scores[index], names) for index in worst],
        legend=_legend(found, best + worst),
    )


def _legend(found: Evaluation, indices: List[int]) -> List[Tuple[str, str]]:
    """Names and colours of the classes that occur in pictures."""
    occurring: Set[int] = set()
    for index in indices:
        _, *contents = found.scores.shown(index)
        for content in contents:
            occurring |= set(np.unique(getattr(content, 'labels', content)).tolist())
    classes = found.metainfo['classes']
    palette = colours(found.metainfo.get('palette'), len(classes))
    return [
        (name, '#{:02x}{:02x}{:02x}'.format(*palette[index]))
        for index, name in enumerate(classes)
        if index in occurring
    ]


def _cells(table: Table) -> Dict[str, Any]:
    """A table of classes for the page: each value as text and, of a metric, its part of 100%."""
    whole = [None if column == 'objects' else 100 if '%' in column else 1
             for column in table.columns]  # fmt: skip
    rows = [
        (
            name,
            [
                (_cell(value, column), None if most is None else _part(value, most))
                for value, column, most in zip(values, table.columns, whole)
            ],
        )
        for name, values in table.rows
    ]
    return dict(columns=table.columns, rows=rows)


def _cell(value: float, column: str) -> str:
    return f'{value:.0f}' if column == 'objects' else _metric_text(value, column)


def _part(value: float, most: float) -> float:
    return round(100 * value / most, 1) if math.isfinite(value) else 0


def _spread(scores: List[float]) -> str:
    if not scores:
        return 'No image has a score.'
    return (
        f'{len(scores)} images have a score: the lowest is {min(scores):.3f}, the median '
        f'{statistics.median(scores):.3f}, the highest {max(scores):.3f}.'
    )


def _picture(found: Evaluation, index: int, score: float, names: Dict[Path, str]) -> Picture:
    path, truth, prediction = found.scores.shown(index)
    parts = []
    for title, content in (('image', None), ('ground truth', truth), ('prediction', prediction)):
        jpeg, inside = draw_panel(path, content, found.metainfo)
        description = f'{title} of {names[path]}' + (f': {inside}' if content is not None else '')
        address = 'data:image/jpeg;base64,' + base64.b64encode(jpeg).decode()
        parts.append((title, description, address))
    return Picture(names[path], score, parts)
