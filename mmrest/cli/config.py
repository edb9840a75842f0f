"""Print a resolved config: bases merged, options applied."""

import argparse
from pathlib import Path

from ..engine.config import load_config
from ..engine.errors import UsageError
from .command import Parser, add_config_arguments


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument('config', help='config file, or name of a shipped config')
    add_config_arguments(parser)
    parser.add_argument(
        '--save-path', type=Path, help='save it to this file (.py, .json or .yml) instead'
    )
    return parser.parse_args()


def main() -> None:
    """Print or save the config."""
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options, args.data_root)
    if args.save_path is None:
        print(cfg.pretty_text)
    elif args.save_path.suffix not in ('.py', '.json', '.yml'):
        raise UsageError(f'--save-path {args.save_path} is not a .py, .json or .yml file')
    else:
        args.save_path.parent.mkdir(parents=True, exist_ok=True)
        cfg.dump(args.save_path)
