# own_coco_small.py with layer-wise learning-rate decay: the rate of each block is 0.8 times the
# rate of the next one. This replaces freezing the first stage.
_base_ = ['./own_coco_small.py']

model = dict(backbone=dict(frozen_stages=-1))
optim_wrapper = dict(
    constructor='BackboneLayerDecayConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.8),
)
