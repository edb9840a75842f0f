"""Figures with a variant for the dark page, such as x.png and x_dark.png."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.pages import Page

FIGURE = re.compile(r'!\[([^\]]*)\]\((\S+)(\.png|\.jpg)\)')


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **kwargs: object) -> str:
    """Show the variant of the page's colour scheme."""
    folder = Path(page.file.abs_src_path).parent

    def both(figure: 're.Match') -> str:
        text, path, suffix = figure.groups()
        if not (folder / f'{path}_dark{suffix}').exists():
            return figure[0]
        return f'![{text}]({path}{suffix}#only-light)![{text}]({path}_dark{suffix}#only-dark)'

    return FIGURE.sub(both, markdown)
