"""Checkpoints of a run, read under torch's weights-only guard."""

from typing import Any

from mmengine.runner import CheckpointLoader

from ..checkpoint import read_checkpoint


def guard_checkpoints() -> None:
    """Have mmengine read local checkpoints through :func:`mmrest.checkpoint.read_checkpoint`.

    mmengine's own reader cannot read its checkpoints back on torch 2.6 and later, and builds
    whatever a file asks for on earlier ones.
    """
    CheckpointLoader.register_scheme('', load_from_local, force=True)


def load_from_local(filename: str, map_location: Any = None) -> Any:
    """Loader of mmengine; it cuts ``load_from_`` off the name for its log."""
    return read_checkpoint(filename, map_location)
