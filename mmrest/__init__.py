"""ResT and RMT backbones for mmdet and mmseg.

Importing this package registers ``ResT`` and ``RMT`` in MMEngine's root registry, where every
OpenMMLab project finds them. It needs torch, mmengine and mmcv (mmcv-lite will do).
"""

from .models import RMT, ResT
from .version import __version__

__all__ = ['RMT', 'ResT', '__version__']
