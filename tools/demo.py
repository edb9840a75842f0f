"""Learn drawn shapes from scratch and show the outcome: see mmrest's main job within minutes."""

import argparse
import json
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mmrest.apis.pictures import draw_curves, draw_predictions
from mmrest.datasets.shapes import write_shapes
from mmrest.engine.command import build_runner, run
from mmrest.engine.config import load_config

ROOT = Path(__file__).resolve().parents[1]

CONFIG = ROOT / 'configs' / 'demo_maskrcnn_rmt_t.py'
COUNTS = {'train': 200, 'val': 50}
METRICS = {
    'coco/bbox_mAP': 'box AP',
    'coco/bbox_mAP_50': 'box AP50',
    'coco/segm_mAP': 'mask AP',
    'coco/segm_mAP_50': 'mask AP50',
}
"""Name in the log -> what people call it."""


def parse_args() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--work-dir', type=Path, default=Path('work_dirs/demo'), help='folder for what comes out'
    )
    return parser.parse_args()


def main() -> None:
    """Draw, train, evaluate and show."""
    args = parse_args()
    console = Console()
    start = time.time()
    data = args.work_dir / 'data'
    write_shapes(data, COUNTS)
    console.print(f'Drew {COUNTS["train"]} images to train on, {COUNTS["val"]} held out: {data}')

    cfg = load_config(str(CONFIG), data_root=str(data / 'coco'))
    cfg.work_dir, cfg.launcher = str(args.work_dir), 'none'
    runner = build_runner(cfg)
    runner.train()

    scalars = Path(runner.log_dir) / 'vis_data' / 'scalars.json'
    draw_predictions(
        runner.model, runner.val_dataloader.dataset, args.work_dir / 'predictions.png'
    )
    draw_curves(scalars, args.work_dir / 'curves.png', METRICS)
    last = [json.loads(line) for line in scalars.open() if next(iter(METRICS)) in line][-1]

    table = Table(title=f'{CONFIG.stem}: {time.time() - start:.0f} s', title_justify='left')
    table.add_column(f'on {COUNTS["val"]} held-out images')
    table.add_column('', justify='right')
    for name, title in METRICS.items():
        table.add_row(title, f'{last[name]:.3f}')
    console.print(table)
    console.print(f'Look at {args.work_dir}/predictions.png and {args.work_dir}/curves.png')
    console.print(f'Checkpoint and logs are in {args.work_dir}; README.md says how to go on')


if __name__ == '__main__':
    run(main)
