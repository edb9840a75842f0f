"""Layer-wise learning rate decay, for fine-tuning on small datasets."""

from typing import Any, List

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from ..errors import UsageError


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class BackboneLayerDecayConstructor(DefaultOptimWrapperConstructor):
    """DefaultOptimWrapperConstructor with layer-wise learning-rate decay.

    In addition to mmengine's keys, ``paramwise_cfg`` accepts ``layer_decay_rate``. The learning
    rate of a parameter at depth d of n is multiplied by ``layer_decay_rate ** (n - 1 - d)``. Necks
    and heads keep the full rate. The constructors in mmdet and mmseg support only ConvNeXt and
    BEiT; mmpretrain's supports only classifiers.

    Raises:
        UsageError: the rate is not in (0, 1], or the backbone has no ``get_layer_depth``.
    """

    def add_params(
        self, params: List[dict], module: nn.Module, prefix: str = '', **kwargs: Any
    ) -> None:
        """Add all parameters of a module; the outermost call, of the model, scales rates."""
        super().add_params(params, module, prefix, **kwargs)
        rate = self.paramwise_cfg.get('layer_decay_rate')
        if prefix or rate is None:
            return
        backbone = getattr(module, 'backbone', None)
        if not hasattr(backbone, 'get_layer_depth'):
            raise UsageError(
                'paramwise_cfg.layer_decay_rate needs a backbone with get_layer_depth, which '
                f'{type(backbone).__name__} does not have; remove it or use ResT or RMT'
            )
        if not 0 < rate <= 1:
            raise UsageError(f'paramwise_cfg.layer_decay_rate must be in (0, 1], got {rate!r}')
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        for group in params:
            name = names[id(group['params'][0])]
            depth, depths = backbone.get_layer_depth(name, 'backbone.')
            group['lr'] = group.get('lr', self.base_lr) * rate ** (depths - 1 - depth)
