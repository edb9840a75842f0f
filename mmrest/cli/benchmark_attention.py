"""Measure the memory of the attention alone, which should grow linearly with the tokens."""

import argparse
from pathlib import Path
from typing import Iterator

from rich.console import Console

from ..apis.attention_memory import ATTENTIONS, Attention, attention_memory
from ..engine.errors import UsageError
from .command import Parser, at_least

LARGEST_MAPS = 2**28
"""Elements of maps up to which the plain form, which holds several of them, is measured."""


def parse_args() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        '--sides', nargs='+', type=at_least(32), default=[448, 640, 896, 1280, 1792],
        help='of square images, multiples of 32 (default: each twice the tokens of the last)',
    )  # fmt: skip
    args = parser.parse_args()
    for side in args.sides:
        if side % 32:
            parser.error(f'--sides: {side} is no multiple of 32')
    if not Path('/proc/self/clear_refs').exists():
        raise UsageError('the peak of a process can be set back on Linux alone; run it there')
    return args


def rows(name: str, attention: Attention, sides: list) -> Iterator[str]:
    """Lines of the table of one attention."""
    for side in sides:
        for backend in ('torch', 'reference'):
            cells = [name, f'{side} x {side}', str(attention.tokens(side)), backend]
            if backend == 'reference' and attention.map_elements(side) > LARGEST_MAPS:
                cells += ['too large'] * 2
            else:
                found = attention_memory(attention, side, backend)
                cells += [f'{found.kept:.0f}', f'{found.peak:.0f}']
            yield f'| {" | ".join(cells)} |'


def main() -> None:
    """Measure and print."""
    args = parse_args()
    console = Console(soft_wrap=True, markup=False)
    console.print('forward and backward, batch 1, float32')
    console.print('| attention | image | tokens | form | kept for backward (MB) | peak (MB) |')
    console.print('|' + ' --- |' * 6)
    for name, attention in ATTENTIONS.items():
        for line in rows(name, attention, args.sides):
            console.print(line)
