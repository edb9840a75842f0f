"""``<!-- modules of mmrest.x -->`` on a page becomes the reference of all public modules there."""

import ast
import pkgutil
import re
from pathlib import Path
from typing import List

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

MARK = re.compile(r'^<!-- modules of ([\w.]+) -->$', re.M)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put in the modules."""
    root = Path(config.config_file_path).parent

    def reference(mark: 're.Match') -> str:
        return '\n\n'.join(_reference(root, module) for module in modules(root, mark[1]))

    return MARK.sub(reference, markdown)


def _reference(root: Path, module: str) -> str:
    init = root / module.replace('.', '/') / '__init__.py'
    if not init.is_file():
        return f'::: {module}'
    # What a package hands on stands where it is defined.
    defined = [part.name for part in ast.parse(init.read_text()).body if hasattr(part, 'name')]
    return f'::: {module}\n    options:\n      members: {defined or "false"}'


def modules(root: Path, package: str) -> List[str]:
    """`package` and the public modules below it; a module by itself."""
    folder = root / package.replace('.', '/')
    names = [package]
    for module in pkgutil.iter_modules([str(folder)]) if folder.is_dir() else ():
        if not module.name.startswith('_'):
            names += modules(root, f'{package}.{module.name}')
    return names
