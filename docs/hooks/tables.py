"""Tables that are readable on a desk and on a phone; see assets/style.css."""

import re
from typing import List

TABLE = re.compile(r'<table>.*?</table>', re.S)
ROW = re.compile(r'<tr[ >].*?</tr>', re.S)
CELL = re.compile(r'<t[hd](?: [^>]*)?>(.*?)</t[hd]>', re.S)
NUMBER = re.compile(r'[\d.,]+( [kMG])?((, | / )[\d.,]+)*( \([\d.,]+\))?|-|too large')


def on_page_content(html: str, **kwargs: object) -> str:
    """Align the cells of the tables of a page."""
    return TABLE.sub(lambda table: _aligned(table[0]), html)


def _aligned(table: str) -> str:
    """Mark columns of numbers, the tables that have some, and those of two columns of text."""
    rows = [CELL.findall(row) for row in ROW.findall(table)]
    if len({len(row) for row in rows}) != 1 or len(rows) < 2:
        return table
    columns = [all(map(_is_number, column)) for column in zip(*rows[1:])]
    kind = 'numbers' if any(columns) else 'prose' if len(columns) == 2 else 'wide'
    # On a phone, cells are below each other and need the titles of their columns.
    titles = [re.sub('<[^>]+>', '', title) if kind == 'wide' else '' for title in rows[0]]
    table = ROW.sub(lambda row: _row(row[0], columns, titles), table)
    return f'<div class="{kind}">{table}</div>'


def _row(row: str, columns: List[bool], titles: List[str]) -> str:
    cells = iter(zip(columns, titles))

    def cell(found: 're.Match') -> str:
        is_number, title = next(cells)
        titled = f' data-title="{title}: "' if title and found[1].strip() else ''
        added = ' class="number"' if is_number else titled
        return f'{found[0][:3]}{added}{found[0][3:]}'

    return CELL.sub(cell, row)


def _is_number(cell: str) -> bool:
    return NUMBER.fullmatch(re.sub('<[^>]+>', '', cell).strip()) is not None
