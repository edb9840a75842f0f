"""``<!-- modules of mmrest.x -->`` on a page becomes the reference of all public modules there."""

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
    # What a package hands on stands where it is defined.
    is_package = (root / module.replace('.', '/')).is_dir()
    return f'::: {module}' + ('\n    options:\n      members: false' if is_package else '')


def modules(root: Path, package: str) -> List[str]:
    """`package` and the public modules below it; a module by itself."""
    folder = root / package.replace('.', '/')
    names = [package]
    for module in pkgutil.iter_modules([str(folder)]) if folder.is_dir() else ():
        if not module.name.startswith('_'):
            names += modules(root, f'{package}.{module.name}')
    return names
