"""Entries of the navigation whose pages are not written yet are left out."""

from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Leave them out."""
    config.nav = _present(config.nav, Path(config.docs_dir))
    return config


def _present(entry: Any, docs: Path) -> Any:
    if isinstance(entry, list):
        return [kept for kept in (_present(part, docs) for part in entry) if kept]
    if isinstance(entry, dict):
        kept = {name: _present(part, docs) for name, part in entry.items()}
        return {name: part for name, part in kept.items() if part}
    return entry if (docs / entry).is_file() else None
