"""Test-time augmentation, as a config says it."""

from mmengine.config import Config

from .config import dicts, is_classifier, type_name
from .errors import UsageError


def check_tta(cfg: Config) -> None:
    """Make sure that a config says how to augment, and can be augmented.

    Raises:
        UsageError: it cannot.
    """
    if any(part.get('mask_head') for _, part in dicts(cfg.model, 'model')):
        raise UsageError('mmdet offers no test-time augmentation (tta) for masks; leave it out')
    if cfg.get('tta_model') is None or cfg.get('tta_pipeline') is None:
        example = 'configs/_base_/runtimes/detection.py shows how they look'
        if is_classifier(cfg):
            example = 'AverageClsScoreTTA of mmpretrain is a tta_model for classifiers'
        raise UsageError(
            f'test-time augmentation (tta) needs tta_model and tta_pipeline in {cfg.filename}; '
            f'{example}'
        )
    if 'pipeline' not in cfg.test_dataloader.dataset:
        raise UsageError(
            'test-time augmentation (tta) replaces test_dataloader.dataset.pipeline, which a '
            f'{type_name(cfg.test_dataloader.dataset)} does not have; give one data set'
        )


def use_tta(cfg: Config) -> None:
    """Test with the augmentations of the config's tta_pipeline, merged by its tta_model."""
    check_tta(cfg)
    cfg.model = dict(**cfg.tta_model, module=cfg.model)
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
