"""Packages that the backends of a visualizer write through."""

from importlib.util import find_spec

from mmengine.config import Config

from ..config import dicts, type_name
from ..errors import UsageError


def check_backends(cfg: Config) -> None:
    """Make sure that TensorBoard is installed where a run writes for it.

    Raises:
        UsageError: it is not.
    """
    types = {type_name(part) for _, part in dicts(cfg.get('visualizer'), 'visualizer')}
    if 'TensorboardVisBackend' in types and find_spec('tensorboard') is None:
        raise UsageError(
            'visualizer.vis_backends: TensorboardVisBackend needs tensorboard: '
            'pip install tensorboard'
        )
