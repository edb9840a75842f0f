"""Test-time augmentation of a config."""

from mmengine.config import Config

from .config import dicts, is_classifier, type_name
from .errors import UsageError


def check_tta(cfg: Config) -> None:
    """Make sure that a config supports test-time augmentation.

    Raises:
        UsageError: it does not.
    """
    if any(part.get('mask_head') for _, part in dicts(cfg.model, 'model')):
        raise UsageError('mmdet does not support test-time augmentation (TTA) of masks; drop it')
    if cfg.get('tta_model') is None or cfg.get('tta_pipeline') is None:
        example = 'see configs/_base_/runtimes/detection.py'
        if is_classifier(cfg):
            example = 'for classifiers, tta_model is AverageClsScoreTTA of mmpretrain'
        raise UsageError(
            f'test-time augmentation (TTA) needs tta_model and tta_pipeline in {cfg.filename}; '
            f'{example}'
        )
    if 'pipeline' not in cfg.test_dataloader.dataset:
        raise UsageError(
            'test-time augmentation (TTA) replaces test_dataloader.dataset.pipeline, which a '
            f'{type_name(cfg.test_dataloader.dataset)} does not have; use a single dataset'
        )


def use_tta(cfg: Config) -> None:
    """Test with the augmentations of the config's tta_pipeline, merged by its tta_model."""
    check_tta(cfg)
    cfg.model = dict(**cfg.tta_model, module=cfg.model)
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
