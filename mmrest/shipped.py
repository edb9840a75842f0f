"""Paths of the shipped configs, and a table of them (``mmrest configs``).

This module imports neither mmrest nor torch, so that the table is shown at once.
"""

import argparse
import difflib
import re
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

import yaml
from rich.console import Console
from rich.table import Column, Table

WIDTH = 120  # columns of the full table
PACKAGE = Path(__file__).resolve().parent

METHODS = {
    'retinanet': 'RetinaNet',
    'maskrcnn': 'Mask R-CNN',
    'cascade_maskrcnn': 'Cascade Mask R-CNN',
    'upernet': 'UperNet',
    'semfpn': 'Semantic FPN',
    'imagenet': 'Classifier',
}


def folder() -> Path:
    """Return the folder of the shipped configs: of the installed package or of the clone."""
    installed = PACKAGE / '.mim' / 'configs'
    return installed if installed.is_dir() else PACKAGE.parent / 'configs'


def find(name: str) -> Optional[Path]:
    """Return the path of a shipped config: ``NAME``, ``NAME.py`` or ``mmrest::NAME.py``."""
    stem = re.sub(r'^mmrest::|\.py$', '', name)
    path = folder() / f'{stem}.py'
    return path if path.is_file() else None


def unlisted() -> List[str]:
    """Return the names of the configs that are not in the metafile."""
    paths = [path.relative_to(folder()) for path in sorted(folder().rglob('*.py'))]
    names = [path.with_suffix('').as_posix() for path in paths if path.parts[0] != '_base_']
    listed = {model['Name'] for model in models()}
    return [name for name in names if name not in listed]


def nearest(name: str) -> List[str]:
    """Return the most similar shipped config as a list, or an empty list."""
    known = [path.stem for path in folder().glob('*.py')]
    return difflib.get_close_matches(Path(name).stem, known, 1, cutoff=0.5)


def models() -> List[Dict[str, Any]]:
    """Return the entries of the metafile."""
    return yaml.safe_load((folder() / 'metafile.yml').read_text(encoding='utf-8'))['Models']


def reported(model: Dict[str, Any]) -> Dict[str, float]:
    """Return metric -> reported value of an entry of the metafile."""
    return {n: v for result in model.get('Results', ()) for n, v in result['Metrics'].items()}


def described(model: Dict[str, Any]) -> Dict[str, str]:
    """Return column -> cell of an entry of the metafile; docs/train.md explains its name."""
    name = model['Name']
    parts = re.fullmatch(r'(\w+)_(?:rest|rmt)_(\w+?)_((?:tl_)?\d+\w)', name)
    method, size, schedule = parts.groups()
    size = size.replace('_', '-').title().replace('Deit', 'DeiT')
    return dict(
        config=name,
        backbone=f'{model["In Collection"]}-{size}',
        method=METHODS[method],
        schedule=schedule.replace('_', ' '),
        params=f'{model["Metadata"]["Parameters"] / 1e6:.1f} M',
        reported=', '.join(f'{key} {value}' for key, value in reported(model).items()) or '-',
    )


def main() -> None:
    """Print the table of configs."""
    parser = argparse.ArgumentParser(description='List the shipped configs.')
    parser.add_argument('word', nargs='*', help='show only configs that contain all these words')
    args = parser.parse_args()
    words = [word.lower() for word in args.word]
    known = models()
    rows = [row for row in map(described, known) if all(w in str(row).lower() for w in words)]
    others = [name for name in unlisted() if all(word in name for word in words)]
    if not rows and not others:
        near = [name for word in words for name in nearest(word)]
        hint = f'did you mean {near[0]}?' if near else 'run it without arguments to list all'
        parser.exit(1, f'{parser.prog}: no shipped config contains {" ".join(words)}; {hint}\n')
    if rows:
        console = Console(width=None if sys.stdout.isatty() else WIDTH)
        # The name of a config contains these.
        left_out = ('backbone', 'method') if console.width < WIDTH else ()
        names = [name for name in rows[0] if name not in left_out]
        columns = [Column(name, no_wrap=name not in ('method', 'reported')) for name in names]
        table = Table(*columns, box=None, pad_edge=False)
        for row in rows:
            table.add_row(*(row[name] for name in names))
        console.print(table)
        print('Results are those of the papers, not reproduced. Train with: mmrest train CONFIG')
    if others:
        print('Other configs (own data, demos, other methods):', *others, sep='\n  ')
    official = {model['Name']: model['Metadata'].get('Official Weights') for model in known}
    for name in [row['config'] for row in rows if words]:
        if official[name]:
            print(f'Official weights of {name}:\n  {official[name]}')
