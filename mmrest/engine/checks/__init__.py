"""What can be known to fail before a run begins: files, data, class lists, heads, weights, room.

Every check raises UsageError or CheckpointError, in one line that names the culprit and what to
do. None writes anything.
"""

from typing import Tuple

from mmengine.config import Config
from mmengine.registry import DefaultScope

from ..arguments import check_arguments
from .annotations import Annotations
from .backends import check_backends
from .classes import check_classes
from .facts import Fact, Facts
from .files import check_files, check_writable
from .folders import check_folders
from .model import check_model
from .pictures import check_pictures
from .plan import plan, schedule
from .room import check_disk, check_memory
from .weights import check_weights

__all__ = ['Fact', 'Facts', 'check', 'check_classes', 'check_files', 'check_model']


def check(cfg: Config, phases: Tuple[str, ...], thorough: bool = False) -> Facts:
    """Carry out every check, in a few seconds.

    Args:
        cfg: config of the run.
        phases: which of 'train', 'val' and 'test' it goes through.
        thorough: read large annotation files whole, those of COCO take some ten seconds more;
            list all images of folders.

    Returns:
        What was found, line by line.

    Raises:
        UsageError: see the modules of this package.
        CheckpointError: weights cannot be read or do not fit.
    """
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmengine'):
        check_files(cfg, phases)
        nearest = check_writable(cfg.work_dir)
        check_backends(cfg)
        annotations = Annotations(whole=thorough)
        facts = check_classes(cfg, phases, annotations)
        model = check_model(cfg)
        check_arguments(cfg, phases)  # building the model has registered what it names
        of_pictures, counts = check_pictures(cfg, phases, annotations)
        of_folders, in_folders = check_folders(cfg, phases, thorough)
        facts += [*of_pictures, *of_folders]
        counts.update(in_folders)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        facts.append(Fact('parameters', f'{parameters:,} of {type(model).__name__}'))
        facts += check_weights(cfg, model, phases)
        if 'train' in phases:
            planned = plan(cfg, counts)
            facts += [*planned.facts, *schedule(cfg, planned)]
            facts += check_disk(cfg, model, planned, nearest)
            facts += check_memory(cfg, model, planned)
    return facts
