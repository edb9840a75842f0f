"""Write the report of a run: one HTML page with its config, curves, metrics and predictions."""

import argparse
from pathlib import Path

from mmengine.device import get_device

from ..engine.config import load_config
from ..reporting.logs import read_log
from ..reporting.report import write_report
from ..reporting.run_summary import find_checkpoint, find_config
from .command import Parser, add_config_arguments, at_least, device, fraction, written_file


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument('work_dir', type=Path, help='work dir of the run')
    parser.add_argument('--config', help='config file (default: the one in the work dir)')
    parser.add_argument(
        '--checkpoint', help='checkpoint to evaluate (default: the best, or else the newest)'
    )
    parser.add_argument('--no-eval', action='store_true', help='report the logs only')
    parser.add_argument(
        '--out',
        type=written_file('.html', '.htm'),
        help='output file (default: report.html in the work dir)',
    )
    parser.add_argument(
        '--num-pictures',
        type=at_least(0),
        default=4,
        metavar='N',
        help='show the N best predictions and the N worst (default: 4)',
    )
    parser.add_argument(
        '--score-thr',
        type=fraction,
        default=0.3,
        help='score threshold for visualizations and image scores (default: 0.3)',
    )
    parser.add_argument(
        '--device', type=device, default=get_device(), help='cpu, cuda, cuda:1 ... (default: GPU)'
    )
    add_config_arguments(parser)
    args = parser.parse_args()
    if args.no_eval and args.checkpoint is not None:
        parser.error('--checkpoint has no effect with --no-eval; drop one of them')
    return args


def main() -> None:
    """Evaluate, and write the report."""
    args = parse_args()
    path = args.config or str(find_config(args.work_dir))
    cfg = load_config(path, args.cfg_options, args.data_root)
    log = read_log(args.work_dir)
    checkpoint = args.checkpoint
    if checkpoint is None and not args.no_eval:
        checkpoint = find_checkpoint(args.work_dir, cfg)
    out = args.out or args.work_dir / 'report.html'
    write_report(
        args.work_dir, cfg, log, out, checkpoint, args.device, args.num_pictures, args.score_thr
    )
    print(f'report saved to {out} ({out.stat().st_size / 2**20:.1f} MB); open it in a browser')
