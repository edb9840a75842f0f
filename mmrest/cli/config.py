"""Print a resolved config: bases merged, options applied."""

import argparse

from ..engine.config import load_config
from .command import Parser, add_config_arguments, written_file


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument('config', help='config file, or name of a shipped config')
    add_config_arguments(parser)
    parser.add_argument(
        '--save-path',
        type=written_file('.py', '.json', '.yml'),
        help='save it to this file (.py, .json or .yml) instead',
    )
    return parser.parse_args()


def main() -> None:
    """Print or save the config."""
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options, args.data_root)
    if args.save_path is None:
        print(cfg.pretty_text)
    else:
        args.save_path.parent.mkdir(parents=True, exist_ok=True)
        cfg.dump(args.save_path)
