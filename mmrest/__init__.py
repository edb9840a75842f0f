"""ResT and RMT backbones for mmdet and mmseg.

Importing this package registers ``ResT``, ``RMT`` and the other parts of the configs in MMEngine's
root registries, where every OpenMMLab project finds them. It requires torch, mmengine and mmcv. It
also adds torchvision's ops to mmcv-lite (:mod:`mmrest.operators`), and to mmengine a checkpoint
loader that works with torch >= 2.6 (:mod:`mmrest.engine.compat`).
"""

from .engine import building as _building  # noqa: F401, registers layer decay and FSDP
from .engine.checkpoint_hooks import AtomicCheckpointHook, InvalidLossHook
from .engine.compat import install_file_access as _install_file_access
from .engine.loops import ResumableEpochLoop, ResumableIterLoop
from .models import RMT, ResT
from .operators import install as _install_operators
from .version import __version__

_install_operators()
_install_file_access()

__all__ = [
    'RMT',
    'InvalidLossHook',
    'ResT',
    'ResumableEpochLoop',
    'ResumableIterLoop',
    'AtomicCheckpointHook',
    '__version__',
]
