"""Report of a run: a self-contained HTML page."""

import base64
import datetime
import math
import statistics
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional, Tuple

import numpy as np
import torch
from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from mmengine.config import Config

from ..checkpoint import write_atomically
from ..datasets.palette import colours
from ..engine.config import batch_size_of
from ..inference.inputs import unique_names
from ..inference.sheets import draw_panel
from ..version import __version__
from .curves import default_keys, panels, svg_of, title_of
from .evaluation import Evaluation, evaluate
from .logs import MAIN_METRIC, Log, metric_text
from .run_summary import Rows, changes_of, environment, summary_of
from .scores import Shown


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
        work_dir: work dir of the run.
        cfg: config of the run, with overrides for the evaluation; modified.
        log: log of the run.
        out: output file.
        checkpoint: checkpoint to evaluate; None for a report of the logs only.
        device: device for the evaluation.
        number: number of best and of worst predictions to show.
        score_thr: detections below it are not drawn, see :class:`.InstanceScores`.

    Raises:
        UsageError: see :func:`.evaluation.evaluate`.
        CheckpointError: see there, or the page cannot be written.
    """
    environments = environment(work_dir)
    # mmengine logs the number of processes as GPUs, also on a CPU.
    logged = {key: then for key, then, _ in environments}.get('GPU number', '')
    processes = int(logged) if logged.isdigit() else 1
    name = Path(cfg.filename).name
    package, changes = changes_of(cfg, name)
    content = dict(
        title=log.name,
        config_name=name,
        summary=summary_of(cfg, log, processes),
        package=package,
        changes=changes,
        config=cfg.pretty_text,
        environment=environments,
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
    # File names that are not valid text are escaped.
    encoded = text.encode('utf-8', 'xmlcharrefreplace')
    write_atomically(out, lambda temporary: Path(temporary).write_bytes(encoded))


def _curves(log: Log) -> List[Markup]:
    found = []
    for index, panel in enumerate(panels([log], default_keys(log))):
        lines = ', '.join(
            f'{name} from {points[0][1]:.3g} to {points[-1][1]:.3g}'
            for name, points in panel.lines
        )
        description = f'{panel.quantity} over iterations: {lines}'
        found.append(Markup(svg_of(panel, f'curve{index}', description)))
    return found


def _metrics(log: Log) -> List[Tuple[str, str, str, str]]:
    """Return the metrics of the log: name, last value, best value and its iteration."""
    rows = []
    for key in log.metrics:
        best = log.best(key)
        if best is not None:
            step, value = best
            last = [v for _, v in log.points(key) if math.isfinite(v)][-1]
            where = '-' if value < 0 else str(step)
            rows.append((title_of(key), metric_text(last, key), metric_text(value, key), where))
    return rows


def _speed(cfg: Config, log: Log, processes: int) -> Rows:
    """Return throughput, time and memory of training."""
    rows: Rows = []
    columns = {
        name: [line[name] for line in log.train if name in line]
        for name in ('img_per_s', 'time', 'data_time', 'memory', 'memory_mb')
    }
    medians = {name: statistics.median(values) for name, values in columns.items() if values}
    batch = batch_size_of(cfg.get('train_dataloader') or {})
    if 'img_per_s' not in medians and 'time' in medians and batch:
        medians['img_per_s'] = batch * processes / medians['time']
    if 'img_per_s' in medians:
        rows.append(('training, median', f'{medians["img_per_s"]:.1f} img/s'))
    if 'time' in medians:
        text = f'{medians["time"]:.3f} s'
        if 'data_time' in medians:
            text += f', of which {medians["data_time"]:.3f} s waiting for data'
        rows.append(('one iteration, median', text))
        seconds = statistics.mean(columns['time']) * log.train[-1]['iter']
        total = datetime.timedelta(seconds=round(seconds))
        rows.append(('all iterations', f'{total} without evaluations'))
    for name, where in (('memory', 'of the GPU'), ('memory_mb', 'of the process')):
        if columns[name]:
            rows.append((f'memory {where} in training', f'{max(columns[name]):,.0f} MB at most'))
    return rows


def _inference(found: Evaluation) -> Rows:
    per_image = 1000 * found.seconds
    rows = [('inference', f'{per_image:.1f} ms per image on {found.device}, one image at a time')]
    if found.memory is not None:
        rows.append(('memory in evaluation', f'{found.memory:,.0f} MB at most'))
    rows.append(('parameters', f'{found.parameters / 1e6:.2f} million'))
    return rows


def _evaluated(found: Evaluation, checkpoint: str, number: int) -> Dict[str, Any]:
    """Return the fields of the template for an evaluation."""
    scores = found.scores.per_image()
    scored = (index for index, score in enumerate(scores) if score is not None)
    ranked = sorted(scored, key=scores.__getitem__)
    number = min(number, max(len(ranked) // 2, 1))
    best, worst = ranked[::-1][:number], ranked[:number]
    shown = {index: found.scores.shown(index) for index in best + worst}
    names = unique_names([each.path for each in shown.values()], suffix=True)
    drawings = {
        index: dict(name=name, score=scores[index], panels=_panels(each, name, found))
        for (index, each), name in zip(shown.items(), names)
    }
    spread = 'No image has a score.'
    if ranked:
        values = [scores[index] for index in ranked]
        spread = (
            f'{len(values)} images have a score: the lowest is {values[0]:.3f}, the median '
            f'{statistics.median(values):.3f}, the highest {values[-1]:.3f}.'
        )
    return dict(
        checkpoint=Path(checkpoint).name,
        found=found,
        evaluated=[
            (title_of(key), metric_text(float(value), key))
            for key, value in found.metrics.items()
            if MAIN_METRIC.fullmatch(key) or key.startswith('coco/') or len(found.metrics) < 20
        ],
        table_of_classes=_table_of_classes(found),
        spread=spread,
        best=[drawings[index] for index in best],
        worst=[drawings[index] for index in worst],
        legend=_legend(found, shown.values()),
    )


def _table_of_classes(found: Evaluation) -> Dict[str, Any]:
    """Return columns and rows of the table; cells have a text and the length of a bar in %."""

    def cell(value: float, column: str) -> Tuple[str, Optional[float]]:
        if column == 'objects':
            return f'{value:.0f}', None
        share = value if '%' in column else 100 * value
        return metric_text(value, column), round(share, 1) if math.isfinite(value) else 0

    columns = found.scores.table()
    cells = [[cell(float(value), name) for value in column] for name, column in columns.items()]
    return dict(columns=list(columns), rows=list(zip(found.scores.classes, zip(*cells))))


def _legend(found: Evaluation, shown: Iterable[Shown]) -> List[Tuple[str, str]]:
    """Return names and colours of the classes in the shown images."""
    contents = [getattr(each, 'labels', each) for _, *pair in shown for each in pair]
    occurring = {label for content in contents for label in np.unique(content).tolist()}
    classes = found.dataset.metainfo['classes']
    palette = colours(found.dataset.metainfo.get('palette'), len(classes))
    return [
        (name, '#{:02x}{:02x}{:02x}'.format(*palette[index]))
        for index, name in enumerate(classes)
        if index in occurring
    ]


def _panels(shown: Shown, name: str, found: Evaluation) -> List[Tuple[str, str, str]]:
    """Return title, description and address of the panels of an image."""
    panels = []
    for title, content in zip(('image', 'ground truth', 'prediction'), (None, *shown[1:])):
        jpeg, inside = draw_panel(shown.path, content, found.dataset)
        description = f'{title} of {name}' + (f': {inside}' if content is not None else '')
        address = 'data:image/jpeg;base64,' + base64.b64encode(jpeg).decode()
        panels.append((title, description, address))
    return panels
