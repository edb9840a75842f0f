# own_coco_small.py with a learning rate that falls with the distance from the output: every block
# learns at 0.8 times the rate of the next, in place of a frozen first stage.
_base_ = ['./own_coco_small.py']

model = dict(backbone=dict(frozen_stages=-1))
optim_wrapper = dict(
    constructor='BackboneLayerDecayConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.8),
)
