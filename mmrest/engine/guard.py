"""Checkpoints of a run, read under torch's weights-only guard."""

import os
import os.path as osp
from typing import Any
from urllib.parse import urlparse

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import CheckpointLoader, Runner, checkpoint

from ..checkpoint import CheckpointError, match, read_checkpoint


def guard_checkpoints() -> None:
    """Have mmengine read checkpoints through :func:`mmrest.checkpoint.read_checkpoint`.

    mmengine's own readers cannot read its checkpoints back on torch 2.6 and later, and build
    whatever a file asks for where torch does not stop them: on earlier releases, and in files that
    come by http on any.
    """
    zoos = ('torchvision', 'modelzoo', 'open-mmlab', 'openmmlab', 'mmcls')
    schemes = [s for s in CheckpointLoader._schemes if not s.startswith(zoos)]
    CheckpointLoader.register_scheme(schemes, load_from_guarded, force=True)
    # The names of model zoos are resolved into addresses for this one.
    checkpoint.load_from_http = load_from_guarded


def load_from_guarded(filename: str, map_location: Any = None, model_dir: Any = None) -> Any:
    """Loader of mmengine; it cuts ``load_from_`` off the name for its log.

    Args:
        filename: local path, or address; what comes by http is kept in torch's hub folder.
        map_location: as for ``torch.load``.
        model_dir: folder instead of that of torch's hub.

    Raises:
        CheckpointError: see :func:`mmrest.checkpoint.read_checkpoint`.
    """
    if filename.startswith(('http://', 'https://')):
        folder = model_dir or osp.join(torch.hub.get_dir(), 'checkpoints')
        filename = _downloaded(filename, folder)
    content = read_checkpoint(filename, map_location)
    if not isinstance(content, dict):
        raise CheckpointError(
            f'{filename} holds a {type(content).__name__}, not a checkpoint or a state dict'
        )
    return content


def _downloaded(url: str, folder: str) -> str:
    path = osp.join(folder, osp.basename(urlparse(url).path))
    if not osp.isfile(path):
        os.makedirs(folder, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, path)
        except OSError as error:
            raise CheckpointError(f'checkpoint {url} cannot be downloaded: {error}') from error
    return path


class WholeCheckpointHook(Hook):
    """Stops a run whose checkpoint does not cover the model; mmengine would go on without it.

    Args:
        resuming: the checkpoint must also say how far its run had come.
    """

    def __init__(self, resuming: bool = False) -> None:
        self.resuming = resuming

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare names and shapes.

        Raises:
            CheckpointError: a tensor of the model is missing or has another shape, or there is
                nothing to resume from.
        """
        if self.resuming and not {'meta', 'state_dict'} <= checkpoint.keys():
            raise CheckpointError(
                'this is no checkpoint of a run, it holds weights alone: leave --resume out and '
                'begin from them with --cfg-options load_from=PATH'
            )
        model = runner.model
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        state = checkpoint.get('state_dict', checkpoint)
        state = {name[7:] if name.startswith('module.') else name: t for name, t in state.items()}
        wanted = model.state_dict()
        try:
            match(f'{runner._load_from} for {type(model).__name__}', state, wanted)
        except CheckpointError as error:
            backbone = {name[9:] for name in wanted if name.startswith('backbone.')}
            if backbone & {*state, *state.get('model', ())}:
                remedy = 'it holds a backbone alone, to begin training from: --pretrained PATH'
            else:
                remedy = 'give the config that it was trained with'
            raise CheckpointError(f'{error}; {remedy}') from error
