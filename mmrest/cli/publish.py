"""Strip a checkpoint of a run to what others need: its weights and what they mean."""

import argparse
from pathlib import Path

from ..checkpoint import publish, read_checkpoint, weights_of
from .command import Parser, published_file

META = ('cfg', 'dataset_meta', 'epoch', 'iter', 'mmengine_version', 'seed')
"""What of the run is kept; the optimizer, schedules, logs and states of hooks are not."""


def parse_args() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument('in_file', help='checkpoint of a run')
    parser.add_argument(
        'out_file',
        type=published_file,
        help='name of the published file, .pth or .safetensors; the beginning of its SHA-256 is '
        'put behind it',
    )
    return parser.parse_args()


def main() -> None:
    """Publish."""
    args = parse_args()
    content = read_checkpoint(args.in_file)
    weights = weights_of(args.in_file, content)
    found = content.get('meta') if isinstance(content, dict) else None
    meta = {n: value for n, value in (found or {}).items() if n in META}
    final = publish(Path(args.out_file), weights.tensors, meta)
    print(f'{final}: {len(weights.tensors)} tensors of {weights.source}')
