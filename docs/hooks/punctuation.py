"""Lines end neither between inline code and punctuation nor inside a name of the reference."""

import re

CODE = re.compile(r'(\(?)(<code>[^<]*</code>)([.,;:)]*)')
NAME = re.compile(r'(?<=doc-object-name )[^<]*')


def on_page_content(html: str, **kwargs: object) -> str:
    """Keep code and punctuation together, and let names break after a dot."""
    html = NAME.sub(lambda name: name[0].replace('.', '.<wbr>'), html)
    return CODE.sub(_joined, html)


def _joined(found: 're.Match') -> str:
    is_alone = not found[1] and not found[3]
    return found[0] if is_alone else f'<span class="joined">{found[0]}</span>'
