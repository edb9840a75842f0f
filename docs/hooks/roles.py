"""Names in docstrings, such as :func:`x`, become links to the page that documents x."""

import re

import griffe

ROLE = re.compile(r':(?:func|class|meth|mod|attr|data|exc):`(~?)([\w.]+)`')


class Roles(griffe.Extension):
    """Rewrites docstrings once a whole package was read."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: object) -> None:
        _rewrite(pkg)


def _rewrite(part: griffe.Object) -> None:
    if part.docstring:
        part.docstring.value = ROLE.sub(lambda role: _link(part, role), part.docstring.value)
    for member in part.members.values():
        if not member.is_alias:
            _rewrite(member)


def _link(part: griffe.Object, role: 're.Match') -> str:
    name = role[2].rpartition('.')[2] if role[1] else role[2]
    try:
        path = role[2] if role[2].startswith('mmrest.') else part.resolve(role[2])
        target = part.modules_collection[path]
        path, is_told = target.canonical_path, target.has_docstring
    except (KeyError, griffe.NameResolutionError, griffe.AliasResolutionError):
        return f'`{name}`'
    # The reference leaves out what is private, what has no docstring, and other packages.
    if not is_told or not path.startswith('mmrest.') or '._' in path:
        return f'`{name}`'
    # Optional, because the reference has the public objects only.
    return f'<autoref optional identifier="{path}"><code>{name}</code></autoref>'
