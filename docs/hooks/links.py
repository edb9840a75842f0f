"""Links that leave docs/ for a file of the repository.

In the repository, such a link opens the file. The site contains the configs as text. A link to any
other file becomes the name of the file.
"""

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

LINK = re.compile(r'\[([^\]]+)\]\((\.\./[^)#\s]+)(?:#[^)]*)?\)')


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the configs to the site."""
    root = Path(config.config_file_path).parent
    for path in (root / 'configs').rglob('*.py'):
        name = f'{path.relative_to(root)}.txt'
        files.append(File.generated(config, name, abs_src_path=str(path)))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace the links of a page; raises PluginError for a broken one."""
    root = Path(config.config_file_path).parent
    folder = Path(page.file.abs_src_path).parent

    def replaced(link: 're.Match') -> str:
        target = Path(os.path.normpath(folder / link[2]))
        if Path(config.docs_dir) in target.parents:
            return link[0]
        if not target.exists():
            raise PluginError(f'{page.file.src_path} links to {link[2]}, which does not exist')
        path = target.relative_to(root)
        if path.parts[0] == 'configs' and path.suffix == '.py':
            up = os.path.relpath(config.docs_dir, folder)
            return f'[{link[1]}]({up}/{path}.txt)'
        text = link[1].strip('`')
        if text in (path.stem, path.name, str(path)):
            return f'`{text}`'
        return f'{link[1]} (`{path}`)'

    return LINK.sub(replaced, markdown)
